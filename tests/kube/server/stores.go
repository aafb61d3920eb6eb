// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
)

func attrs(obj runtime.Object) (labels.Set, fields.Set, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, nil, err
	}
	set := fields.Set{"metadata.name": m.GetName()}
	if m.GetNamespace() != "" {
		set["metadata.namespace"] = m.GetNamespace()
	}
	switch o := obj.(type) {
	case *corev1.Service:
		set["spec.clusterIP"], set["spec.type"] = o.Spec.ClusterIP, string(o.Spec.Type)
	case *corev1.Pod:
		set["spec.nodeName"], set["status.phase"] = o.Spec.NodeName, string(o.Status.Phase)
	case *corev1.Node:
		set["spec.unschedulable"] = fmt.Sprint(o.Spec.Unschedulable)
	}
	return m.GetLabels(), set, nil
}

// Only what a status subresource has: an embedded store would offer lists and watches as well.
type statusREST struct{ store *registry.Store }

func (r statusREST) New() runtime.Object { return r.store.NewFunc() }
func (r statusREST) Destroy()            {}
func (r statusREST) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, o)
}
func (r statusREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo,
	create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, o *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	return r.store.Update(ctx, name, info, create, update, false, o)
}

func store(getter generic.RESTOptionsGetter, gr schema.GroupResource, singular string, namespaced bool,
	one, many func() runtime.Object,
) (*registry.Store, rest.Storage) {
	s := strategy{scheme, names.SimpleNameGenerator, namespaced, false}
	made := &registry.Store{
		NewFunc: one, NewListFunc: many,
		DefaultQualifiedResource:  gr,
		SingularQualifiedResource: schema.GroupResource{Group: gr.Group, Resource: singular},
		CreateStrategy:            s, UpdateStrategy: s, DeleteStrategy: s,
		TableConvertor: rest.NewDefaultTableConvertor(gr),
		PredicateFunc: func(l labels.Selector, f fields.Selector) storage.SelectionPredicate {
			p := storage.SelectionPredicate{Label: l, Field: f, GetAttrs: attrs}
			if gr.Resource == "pods" {
				p.IndexLabels, p.IndexFields = nil, []string{"spec.nodeName"}
			}
			return p
		},
	}
	opts := &generic.StoreOptions{RESTOptions: getter, AttrFunc: attrs}
	if gr.Resource == "pods" {
		opts.TriggerFunc = map[string]storage.IndexerFunc{
			"spec.nodeName": func(obj runtime.Object) string { return obj.(*corev1.Pod).Spec.NodeName },
		}
	}
	must(made.CompleteWithOptions(opts))
	again := *made
	s.status = true
	again.UpdateStrategy = s
	return made, statusREST{&again}
}

// serve offers what there is, in the legacy group and in discovery's.
func serve(made *server.GenericAPIServer, getter generic.RESTOptionsGetter) {
	legacy := server.NewDefaultAPIGroupInfo("", scheme, runtime.NewParameterCodec(scheme), codecs)
	services, servicesStatus := store(getter, corev1.Resource("services"), "service", true,
		func() runtime.Object { return &corev1.Service{} }, func() runtime.Object { return &corev1.ServiceList{} })
	nodes, nodesStatus := store(getter, corev1.Resource("nodes"), "node", false,
		func() runtime.Object { return &corev1.Node{} }, func() runtime.Object { return &corev1.NodeList{} })
	pods, podsStatus := store(getter, corev1.Resource("pods"), "pod", true,
		func() runtime.Object { return &corev1.Pod{} }, func() runtime.Object { return &corev1.PodList{} })
	spaces, spacesStatus := store(getter, corev1.Resource("namespaces"), "namespace", false,
		func() runtime.Object { return &corev1.Namespace{} }, func() runtime.Object { return &corev1.NamespaceList{} })
	legacy.VersionedResourcesStorageMap["v1"] = map[string]rest.Storage{
		"services": services, "services/status": servicesStatus,
		"nodes": nodes, "nodes/status": nodesStatus,
		"pods": pods, "pods/status": podsStatus,
		"namespaces": spaces, "namespaces/status": spacesStatus,
	}
	must(made.InstallLegacyAPIGroup("/api", &legacy))
	slices, _ := store(getter, discoveryv1.Resource("endpointslices"), "endpointslice", true,
		func() runtime.Object { return &discoveryv1.EndpointSlice{} },
		func() runtime.Object { return &discoveryv1.EndpointSliceList{} })
	group := server.NewDefaultAPIGroupInfo(disc.Group, scheme, runtime.NewParameterCodec(scheme), codecs)
	group.VersionedResourcesStorageMap["v1"] = map[string]rest.Storage{"endpointslices": slices}
	must(made.InstallAPIGroup(&group))
}
