// SPDX-License-Identifier: Apache-2.0

// Kubernetes' generic API server over etcd, with services, endpoint slices, nodes, pods and
// namespaces: all that kube-apiserver's protocol is, but neither its validation nor its defaults,
// nor a controller. scripts/build-apiserver builds it.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/token/tokenfile"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/klog/v2"
	"k8s.io/kube-openapi/pkg/common"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "kube-apiserver:", err)
		os.Exit(1)
	}
}

func main() {
	fs := pflag.NewFlagSet("kube-apiserver", pflag.ExitOnError)
	etcd := options.NewEtcdOptions(storagebackend.NewDefaultConfig("/registry", codecs.LegacyCodec(core, disc)))
	etcd.AddFlags(fs)
	serving := options.NewSecureServingOptions().WithLoopback()
	serving.AddFlags(fs)
	tokens := fs.String("token-auth-file", "", "")
	gates := fs.String("feature-gates", "", "")
	serviceFields := fs.Bool("service-fields", true, "services by spec.clusterIP, as since 1.31")
	inflight := fs.Int("max-requests-inflight", 400, "")
	mutating := fs.Int("max-mutating-requests-inflight", 200, "")
	minTimeout := fs.Int("min-request-timeout", 1800, "")
	fairness := fs.Bool("enable-priority-and-fairness", true, "")
	goaway := fs.Float64("goaway-chance", 0, "")
	delay := fs.Duration("shutdown-delay-duration", 0, "")
	strict := fs.Bool("strict", false, "give everyone one seat and no queue")
	for _, name := range []string{"advertise-address", "service-account-key-file",
		"service-account-signing-key-file", "service-account-issuer", "authorization-mode",
		"disable-admission-plugins", "service-cluster-ip-range"} {
		fs.String(name, "", "ignored")
	}
	all := flag.NewFlagSet("klog", flag.ExitOnError)
	klog.InitFlags(all)
	fs.AddGoFlagSet(all)
	must(fs.Parse(os.Args[1:]))
	if *gates != "" {
		must(utilfeature.DefaultMutableFeatureGate.Set(*gates))
	}
	install(*serviceFields)

	config := server.NewConfig(codecs)
	config.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	config.MaxRequestsInFlight, config.MaxMutatingRequestsInFlight = *inflight, *mutating
	config.MinRequestTimeout, config.GoawayChance = *minTimeout, *goaway
	config.ShutdownDelayDuration = *delay
	config.ExternalAddress = net.JoinHostPort(serving.BindAddress.String(), fmt.Sprint(serving.BindPort))
	none := func(common.ReferenceCallback) map[string]common.OpenAPIDefinition { return nil }
	config.OpenAPIV3Config = server.DefaultOpenAPIV3Config(none, openapi.NewDefinitionNamer(scheme))
	config.OpenAPIV3Config.IgnorePrefixes = []string{"/api", "/apis", "api", "apis"}
	config.SkipOpenAPIInstallation = true
	if serving.ServerCert.CertDirectory != "" {
		serving.ServerCert.PairName = "apiserver"
	}
	must(serving.MaybeDefaultWithSelfSignedCerts("127.0.0.1", []string{"localhost"}, []net.IP{net.ParseIP("127.0.0.1")}))
	must(serving.ApplyTo(&config.SecureServing, &config.LoopbackClientConfig))
	must(etcd.ApplyTo(config))
	found, err := tokenfile.NewCSV(*tokens)
	must(err)
	config.Authentication.Authenticator = bearertoken.New(found)
	config.Authorization.Authorizer = authorizerfactory.NewAlwaysAllowAuthorizer()

	// The schemas of priority and fairness are those of a new cluster, from no cluster.
	client := fake.NewSimpleClientset(schemas(*strict)...)
	shared := informers.NewSharedInformerFactory(client, 10*time.Minute)
	features := options.NewFeatureOptions()
	features.EnablePriorityAndFairness = *fairness
	must(features.ApplyTo(config, client, shared))

	made, err := config.Complete(shared).New("kube-apiserver", server.NewEmptyDelegate())
	must(err)
	serve(made, config.RESTOptionsGetter)
	prepared := made.PrepareRun()
	shared.Start(make(chan struct{}))
	must(prepared.RunWithContext(server.SetupSignalContext()))
}
