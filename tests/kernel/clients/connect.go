// SPDX-License-Identifier: Apache-2.0

// A static client in Go, which makes its system calls without the C library:
// connect HOST PORT tcp|udp|udp-unconnected; prints as connect.c does.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

var names = map[syscall.Errno]string{
	syscall.ECONNREFUSED: "ECONNREFUSED",
	syscall.ENETUNREACH:  "ENETUNREACH",
	syscall.EPERM:        "EPERM",
}

func fail(err error) {
	var errno syscall.Errno
	if errors.As(err, &errno) && names[errno] != "" {
		fmt.Println(names[errno])
	} else {
		fmt.Println(err)
	}
	os.Exit(1)
}

func check(err error) {
	if err != nil {
		fail(err)
	}
}

func main() {
	address := net.JoinHostPort(os.Args[1], os.Args[2])
	said := make([]byte, 256)
	var size int
	var peer net.Addr
	if os.Args[3] == "udp-unconnected" {
		socket, err := net.ListenPacket("udp", ":0") // one socket for both families
		check(err)
		check(socket.SetDeadline(time.Now().Add(20 * time.Second)))
		to, err := net.ResolveUDPAddr("udp", address)
		check(err)
		_, err = socket.WriteTo([]byte("hello"), to)
		check(err)
		size, peer, err = socket.ReadFrom(said)
		check(err)
	} else {
		socket, err := net.Dial(os.Args[3], address)
		check(err)
		check(socket.SetDeadline(time.Now().Add(20 * time.Second)))
		if os.Args[3] == "udp" {
			_, err = socket.Write([]byte("hello"))
			check(err)
		}
		size, err = socket.Read(said)
		check(err)
		peer = socket.RemoteAddr()
	}
	host, port, err := net.SplitHostPort(peer.String())
	check(err)
	fmt.Println(strings.FieldsFunc(string(said[:size]), func(r rune) bool {
		return r == ' ' || r == '\n'
	})[0], host, port)
}
