{{/* SPDX-License-Identifier: Apache-2.0 */}}
{{- define "hostreach.labels" -}}
k8s-app: hostreach
app.kubernetes.io/name: hostreach
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "hostreach.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* "true" or nothing. What global says goes before. */}}
{{- define "hostreach.enabled" -}}
{{- $global := dig "hostServices" (dict) (.Values.global | default dict) -}}
{{- if hasKey $global "enabled" }}{{ if $global.enabled }}true{{ end }}{{ else if .Values.hostServices.enabled }}true{{ end }}
{{- end }}

{{/* As --protocols takes them, from a string or a list. */}}
{{- define "hostreach.protocols" -}}
{{- $global := dig "hostServices" (dict) (.Values.global | default dict) -}}
{{- $chosen := $global.protocols | default .Values.hostServices.protocols -}}
{{- if kindIs "slice" $chosen }}{{ join "," $chosen }}{{ else }}{{ $chosen }}{{ end }}
{{- end }}

{{/* "true" if what runs after `helm uninstall` is part of the output. */}}
{{- define "hostreach.cleanup" -}}
{{- if eq .Values.cleanup.render "always" }}true{{ else if and (eq .Values.cleanup.render "auto") (lookup "v1" "Namespace" "" "kube-system") }}true{{ end }}
{{- end }}

{{/* "true" if a release that is switched off was on before: its agents left programs and tables. */}}
{{- define "hostreach.leftovers" -}}
{{- $there := or (lookup "apps/v1" "DaemonSet" .Release.Namespace "hostreach") (lookup "apps/v1" "DaemonSet" .Release.Namespace "hostreach-cleanup") -}}
{{- if eq .Values.cleanup.render "always" }}true{{ else if and (eq .Values.cleanup.render "auto") $there }}true{{ end }}
{{- end }}

{{- define "hostreach.address" -}}
{{ if contains ":" .Values.metrics.address }}[{{ .Values.metrics.address }}]{{ else }}{{ .Values.metrics.address }}{{ end }}:{{ .Values.metrics.port }}
{{- end }}

{{/* Where the kubelet finds the agent: on the address it listens on, or on loopback of that family. */}}
{{- define "hostreach.probe" -}}
{{ get (dict "0.0.0.0" "127.0.0.1" "::" "::1") .Values.metrics.address | default .Values.metrics.address }}
{{- end }}

{{/*
With an API server that has a name the node's own resolver is asked: the cluster's is a service,
which is not there before the agent has reached the API server.
*/}}
{{- define "hostreach.dnsPolicy" -}}
{{- $host := .Values.k8sServiceHost -}}
{{ if and $host (not (regexMatch "^[0-9.]+$|:" $host)) }}Default{{ else }}ClusterFirstWithHostNet{{ end }}
{{- end }}

{{/*
The profiles that runtimes give to unprivileged containers deny bpffs, and other processes' network
namespaces; AppArmor's by an annotation before Kubernetes 1.30.
*/}}
{{- define "hostreach.appArmorField" -}}
{{- if and .Values.appArmorProfile (semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version) -}}
type: {{ .Values.appArmorProfile }}
{{- end }}
{{- end }}

{{- define "hostreach.appArmorAnnotation" -}}
{{- if and .root.Values.appArmorProfile (semverCompare "<1.30-0" .root.Capabilities.KubeVersion.Version) -}}
container.apparmor.security.beta.kubernetes.io/{{ .container }}: {{ get (dict "Unconfined" "unconfined" "RuntimeDefault" "runtime/default") .root.Values.appArmorProfile }}
{{- end }}
{{- end }}

{{- define "hostreach.volumes" -}}
- name: bpffs
  hostPath:
    path: /sys/fs/bpf
    type: Directory
- name: cgroup
  hostPath:
    path: /sys/fs/cgroup
    type: Directory
- name: run
  hostPath:
    path: /run/hostreach
    type: DirectoryOrCreate
{{- end }}

{{- define "hostreach.mounts" -}}
- name: bpffs
  mountPath: /sys/fs/bpf
  mountPropagation: HostToContainer
- name: cgroup
  mountPath: /sys/fs/cgroup
- name: run
  mountPath: /run/hostreach
{{- end }}

{{- define "hostreach.securityContext" -}}
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsUser: 0
capabilities:
  drop: [ALL]
  add: [NET_ADMIN, SYS_ADMIN, SYS_PTRACE, SYS_RESOURCE]
{{- with include "hostreach.appArmorField" . }}
appArmorProfile:
  {{- . | nindent 2 }}
{{- end }}
{{- with .Values.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where nobody has mounted bpffs, on the node itself: its pins must outlive the pod. */}}
{{- define "hostreach.mountBpffs" -}}
- name: mount-bpffs
  image: {{ include "hostreach.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/bin/sh, -c]
  args:
    - >-
      grep -q ' /sys/fs/bpf bpf ' /proc/1/mounts ||
      nsenter --target 1 --mount -- mount -t bpf -o mode=0700 bpf /sys/fs/bpf
  securityContext:
    privileged: true
    readOnlyRootFilesystem: true
  resources:
    requests:
      cpu: 10m
      memory: 16Mi
{{- end }}

{{/*
Of the pod that waits for the nodes, which is to run on one that is up: of what the agents tolerate only
taints that are named, and none that a node has for being down, full or cordoned.
*/}}
{{- define "hostreach.waiterTolerations" -}}
{{- range concat (.Values.tolerations | default list) (.Values.cleanup.tolerations | default list) }}
{{- if and .key (not (regexMatch "^node\\.(cloudprovider\\.)?kubernetes\\.io/" .key)) }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end }}
{{- end }}

{{/*
What cleans up waits on each node for its agent's end: left from an uninstallation that did not reach all
nodes, it would take the next agents' tables away whenever one of them is restarted.
*/}}
{{- define "hostreach.noCleanup" -}}
{{- with lookup "apps/v1" "DaemonSet" .Release.Namespace "hostreach-cleanup" }}
{{- if ne (dig "annotations" "meta.helm.sh/release-name" "" .metadata) $.Release.Name }}
{{- fail (printf "a cleanup is not done: wait for it, or kubectl --namespace %s delete daemonset hostreach-cleanup" $.Release.Namespace) }}
{{- end }}
{{- end }}
{{- end }}

{{/* On each node, once its agent is gone: programs and tables are removed. */}}
{{- define "hostreach.cleanupNodes" -}}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: hostreach-cleanup
  namespace: {{ .root.Release.Namespace }}
  labels:
    app.kubernetes.io/name: hostreach-cleanup
  {{- with .hook }}
  annotations:
    {{- toYaml . | nindent 4 }}
    helm.sh/hook-weight: "0"
  {{- end }}
spec:
  selector:
    matchLabels:
      app.kubernetes.io/name: hostreach-cleanup
  template:
    metadata:
      labels:
        app.kubernetes.io/name: hostreach-cleanup
      {{- with include "hostreach.appArmorAnnotation" (dict "root" .root "container" "detach") }}
      annotations:
        {{- . | nindent 8 }}
      {{- end }}
    spec:
      automountServiceAccountToken: false
      hostNetwork: true
      hostPID: true
      terminationGracePeriodSeconds: 1
      {{- with .root.Values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      initContainers:
        - name: detach
          image: {{ include "hostreach.image" .root }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [/bin/sh, -c]
          args:
            - >-
              while hostreach status --pin={{ .root.Values.pin }} --json | grep -q '"alive": true'; do sleep 1; done;
              exec hostreach detach --purge --pin={{ .root.Values.pin }}
          securityContext:
            {{- include "hostreach.securityContext" .root | nindent 12 }}
          volumeMounts:
            {{- include "hostreach.mounts" .root | nindent 12 }}
      containers:
        - name: done
          image: {{ include "hostreach.image" .root }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [sleep, infinity]
          securityContext:
            readOnlyRootFilesystem: true
            allowPrivilegeEscalation: false
            capabilities:
              drop: [ALL]
      volumes:
        {{- include "hostreach.volumes" .root | nindent 8 }}
{{- end }}
