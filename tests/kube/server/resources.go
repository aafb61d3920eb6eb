// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/storage/names"
)

// The versioned types stand for internal ones.
var (
	scheme = runtime.NewScheme()
	codecs = serializer.NewCodecFactory(scheme)
	core   = schema.GroupVersion{Version: "v1"}
	disc   = discoveryv1.SchemeGroupVersion
)

func install(fieldsOfServices bool) {
	must(corev1.AddToScheme(scheme))
	must(discoveryv1.AddToScheme(scheme))
	must(metainternal.AddToScheme(scheme))
	metav1.AddToGroupVersion(scheme, core)
	scheme.AddKnownTypes(schema.GroupVersion{Version: runtime.APIVersionInternal},
		&corev1.Service{}, &corev1.ServiceList{}, &corev1.Node{}, &corev1.NodeList{},
		&corev1.Pod{}, &corev1.PodList{}, &corev1.Namespace{}, &corev1.NamespaceList{})
	scheme.AddKnownTypes(schema.GroupVersion{Group: disc.Group, Version: runtime.APIVersionInternal},
		&discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{})
	must(scheme.SetVersionPriority(core))
	must(scheme.SetVersionPriority(disc))
	service := []string{"metadata.name", "metadata.namespace"}
	if fieldsOfServices {
		service = append(service, "spec.clusterIP", "spec.type")
	}
	known(core.WithKind("Service"), service...)
	known(core.WithKind("Node"), "metadata.name", "spec.unschedulable")
	known(core.WithKind("Namespace"), "metadata.name", "status.phase", "name")
	known(core.WithKind("Pod"), "metadata.name", "metadata.namespace", "spec.nodeName",
		"spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
		"status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName")
}

// known in the words of k8s.io/kubernetes/pkg/apis/core/v1/conversion.go.
func known(kind schema.GroupVersionKind, names ...string) {
	must(scheme.AddFieldLabelConversionFunc(kind, func(label, value string) (string, string, error) {
		for _, name := range names {
			if label == name {
				return label, value, nil
			}
		}
		return "", "", fmt.Errorf("field label not supported: %s", label)
	}))
}

type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	namespaced bool
	status     bool
}

func (s strategy) NamespaceScoped() bool                                          { return s.namespaced }
func (strategy) AllowCreateOnUpdate() bool                                        { return false }
func (strategy) AllowUnconditionalUpdate() bool                                   { return true }
func (strategy) Canonicalize(runtime.Object)                                      {}
func (strategy) Validate(context.Context, runtime.Object) field.ErrorList         { return nil }
func (strategy) WarningsOnCreate(context.Context, runtime.Object) []string        { return nil }
func (strategy) WarningsOnUpdate(_ context.Context, _, _ runtime.Object) []string { return nil }
func (strategy) ValidateUpdate(_ context.Context, _, _ runtime.Object) field.ErrorList {
	return nil
}

func (strategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	switch o := obj.(type) {
	case *corev1.Service:
		o.Status = corev1.ServiceStatus{}
		defaults(o)
	case *discoveryv1.EndpointSlice:
		o.Generation = 1
	case *corev1.Pod:
		o.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBestEffort}
	case *corev1.Namespace:
		o.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	}
}

func (s strategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	switch o := obj.(type) {
	case *corev1.Service:
		was := old.(*corev1.Service)
		if s.status {
			o.Spec = was.Spec
		} else {
			o.Status = was.Status
			defaults(o)
		}
	case *corev1.Node:
		was := old.(*corev1.Node)
		if s.status {
			o.Spec = was.Spec
		} else {
			o.Status = was.Status
		}
	case *corev1.Pod:
		was := old.(*corev1.Pod)
		if s.status {
			o.Spec = was.Spec
		} else {
			o.Status = was.Status
		}
	case *discoveryv1.EndpointSlice:
		o.Generation = old.(*discoveryv1.EndpointSlice).Generation + 1
	}
}

func defaults(o *corev1.Service) {
	if o.Spec.Type == "" {
		o.Spec.Type = corev1.ServiceTypeClusterIP
	}
	if o.Spec.SessionAffinity == "" {
		o.Spec.SessionAffinity = corev1.ServiceAffinityNone
	}
	if o.Spec.InternalTrafficPolicy == nil && o.Spec.Type != corev1.ServiceTypeExternalName {
		cluster := corev1.ServiceInternalTrafficPolicyCluster
		o.Spec.InternalTrafficPolicy = &cluster
	}
	for i := range o.Spec.Ports {
		if o.Spec.Ports[i].Protocol == "" {
			o.Spec.Ports[i].Protocol = corev1.ProtocolTCP
		}
	}
}
