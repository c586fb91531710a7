{{- define "corral.name" -}}
{{- printf "%s" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "corral.selector" -}}
app.kubernetes.io/name: corral
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "corral.labels" -}}
{{ include "corral.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "corral.configSecret" -}}
{{- .Values.existingConfigSecret | default (printf "%s-config" (include "corral.name" .)) -}}
{{- end -}}

{{- define "corral.imageClaim" -}}
{{- .Values.images.existingClaim | default (printf "%s-images" (include "corral.name" .)) -}}
{{- end -}}

{{- define "corral.imageAccessMode" -}}
{{- .Values.images.accessMode | default (ternary "ReadWriteMany" "ReadWriteOnce" (gt (int .Values.replicas) 1)) -}}
{{- end -}}

{{- define "corral.check" -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.images.persistent) -}}
{{- fail "replicas above 1 share the image store: images.persistent must be true" -}}
{{- end -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.images.existingClaim) (ne (include "corral.imageAccessMode" .) "ReadWriteMany") -}}
{{- fail "replicas above 1 share the image store: images.accessMode must be ReadWriteMany" -}}
{{- end -}}
{{- if and (gt (int .Values.replicas) 1) (not .Values.database.url) (not .Values.existingConfigSecret) -}}
{{- fail "replicas above 1 need database.url: SQLite is for one process" -}}
{{- end -}}
{{- if and (not .Values.tls.secretName) (not .Values.tls.insecure) (not .Values.existingConfigSecret) -}}
{{- fail "tls.secretName is needed, or tls.insecure: true, where everything on the way may read what is sent" -}}
{{- end -}}
{{- end -}}
