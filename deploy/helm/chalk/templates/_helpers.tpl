{{- define "chalk.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "chalk.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "chalk.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "chalk.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "chalk.selector" -}}
app.kubernetes.io/name: {{ include "chalk.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "chalk.labels" -}}
{{ include "chalk.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "chalk.annotations" -}}
{{- with .Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "chalk.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "chalk.scheme" -}}
{{- if .Values.service.tlsSecret }}https{{ else }}http{{ end }}
{{- end }}

{{- define "chalk.serviceName" -}}
{{ include "chalk.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "chalk.advertise" -}}
{{- .Values.service.advertise | default (printf "%s:%v" (include "chalk.serviceName" .) .Values.service.port) }}
{{- end }}

{{/* Where nodes find the service. */}}
{{- define "chalk.server" -}}
{{- if .Values.nodes.server -}}
{{ .Values.nodes.server }}
{{- else if .Values.service.enabled -}}
{{ include "chalk.scheme" . }}://{{ include "chalk.advertise" . }}
{{- else -}}
{{ fail "nodes.server must say where the service is, since service.enabled is false" }}
{{- end }}
{{- end }}

{{/* Settings, path to value, as variables: build.parallel is CHALK_BUILD_PARALLEL. */}}
{{- define "chalk.settings" -}}
{{- range $path, $value := . }}
- name: CHALK_{{ $path | upper | replace "." "_" }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- end }}

{{/* What service and nodes need of the external registry. */}}
{{- define "chalk.registryMounts" -}}
{{- if .Values.registry.credentialsSecret }}
- name: registry-credentials
  mountPath: /etc/chalk/registry
  readOnly: true
{{- end }}
{{- if .Values.registry.caConfigMap }}
- name: registry-ca
  mountPath: /etc/chalk/ca
  readOnly: true
{{- end }}
{{- end }}

{{- define "chalk.registryVolumes" -}}
{{- with .Values.registry.credentialsSecret }}
- name: registry-credentials
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - key: .dockerconfigjson
        path: config.json
{{- end }}
{{- with .Values.registry.caConfigMap }}
- name: registry-ca
  configMap:
    name: {{ . }}
{{- end }}
{{- end }}
