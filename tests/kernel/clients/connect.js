// SPDX-License-Identifier: Apache-2.0
// A client in Node: connect.js HOST PORT tcp|udp; prints as connect.c does.
const net = require("node:net");
const dgram = require("node:dgram");
const [host, port, kind] = process.argv.slice(2);

function done(said, address, peerPort) {
  console.log(`${String(said).split(/[ \n]/)[0]} ${address} ${peerPort}`);
  process.exit(0);
}

function fail(error) {
  console.log(error.code);
  process.exit(1);
}

if (kind === "tcp") {
  const client = net.connect({ host, port: Number(port) });
  client.on("error", fail);
  client.on("data", (said) => done(said, client.remoteAddress, client.remotePort));
} else {
  const client = dgram.createSocket(net.isIPv6(host) ? "udp6" : "udp4");
  client.on("error", fail);
  client.on("message", (said, from) => done(said, from.address, from.port));
  client.send("hello", Number(port), host, (error) => error && fail(error));
}
