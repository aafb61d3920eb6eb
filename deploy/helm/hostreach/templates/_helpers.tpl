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

{{- define "hostreach.address" -}}
{{ if contains ":" .Values.metrics.address }}[{{ .Values.metrics.address }}]{{ else }}{{ .Values.metrics.address }}{{ end }}:{{ .Values.metrics.port }}
{{- end }}

{{/* Where the kubelet finds the agent: on the address it listens on, or on any. */}}
{{- define "hostreach.probe" -}}
{{ if has .Values.metrics.address (list "0.0.0.0" "::") }}127.0.0.1{{ else }}{{ .Values.metrics.address }}{{ end }}
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
      nsenter --target 1 --mount -- mount -t bpf bpf /sys/fs/bpf
  securityContext:
    privileged: true
    readOnlyRootFilesystem: true
  resources:
    requests:
      cpu: 10m
      memory: 16Mi
{{- end }}
