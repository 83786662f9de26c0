{{- define "ecompile.labels" -}}
app.kubernetes.io/name: ecompile
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: ecompile
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
{{- define "ecompile.selector" -}}
app.kubernetes.io/name: ecompile
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}
{{- define "ecompile.image" -}}
{{- $image := get .Values.image .part -}}
{{- $digest := get .Values.image.digests .part -}}
{{- if $digest -}}
{{- printf "%s@%s" (regexReplaceAll "(@.*|:[^:/]*)$" $image "") $digest -}}
{{- else -}}
{{- $image -}}
{{- end -}}
{{- end }}
{{- define "ecompile.uninstall" -}}
helm.sh/hook: pre-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
{{- define "ecompile.test" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
