{{- define "runsink.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "runsink.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "runsink.labels" -}}
{{ include "runsink.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "runsink.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end -}}
{{- end -}}

{{/* A value of the configuration as runsink reads it. A number from a values file is a float, which would print as 1e+06. */}}
{{- define "runsink.text" -}}
{{- if kindIs "float64" . -}}{{ int64 . }}
{{- else if kindIs "slice" . -}}{{ join "," . }}
{{- else -}}{{ . }}
{{- end -}}
{{- end -}}

{{/* A key of the configuration, or its default where there is none or null: (list . "drain.timeout" "25s") */}}
{{- define "runsink.key" -}}
{{- $config := (index . 0).Values.config -}}
{{- if not (kindIs "invalid" (index $config (index . 1))) -}}{{ include "runsink.text" (index $config (index . 1)) }}
{{- else -}}{{ index . 2 }}
{{- end -}}
{{- end -}}

{{/* Whole seconds of a time such as 500ms, 25s, 5m, 1h or 7d, rounded up. */}}
{{- define "runsink.seconds" -}}
{{- if not (regexMatch "^[0-9]+(ms|s|m|h|d)$" .) -}}{{ fail (printf "drain.timeout: %q is not a time such as 25s" .) }}{{- end -}}
{{- $n := regexFind "^[0-9]+" . | int64 -}}
{{- $factor := get (dict "s" 1 "m" 60 "h" 3600 "d" 86400) (regexFind "[a-z]+$" .) -}}
{{- if $factor -}}{{ mul $n $factor }}{{- else -}}{{ div (add $n 999) 1000 }}{{- end -}}
{{- end -}}

{{/* Whole MiB of a size such as 64KiB, 256MiB or 1GiB, rounded up. */}}
{{- define "runsink.mebibytes" -}}
{{- if not (regexMatch "^[0-9]+([KMGT]iB)?$" .) -}}{{ fail (printf "memory.budget: %q is not a size such as 256MiB" .) }}{{- end -}}
{{- $n := regexFind "^[0-9]+" . | int64 -}}
{{- $unit := regexFind "[A-Za-z]+$" . -}}
{{- if eq $unit "TiB" -}}{{ mul $n 1048576 }}
{{- else if eq $unit "GiB" -}}{{ mul $n 1024 }}
{{- else if eq $unit "MiB" -}}{{ $n }}
{{- else if eq $unit "KiB" -}}{{ div (add $n 1023) 1024 }}
{{- else -}}{{ div (add $n 1048575) 1048576 }}
{{- end -}}
{{- end -}}

{{- define "runsink.grace" -}}
{{- $drain := include "runsink.seconds" (include "runsink.key" (list . "drain.timeout" "25s")) | int -}}
{{- $grace := int .Values.terminationGracePeriodSeconds -}}
{{- if and $grace (le $grace $drain) -}}
{{- fail (printf "terminationGracePeriodSeconds is %d, drain.timeout %d s: the process would be killed while it drains" $grace $drain) -}}
{{- end -}}
{{- default (add $drain 30) $grace -}}
{{- end -}}

{{- define "runsink.adminPort" -}}
{{- $listen := include "runsink.key" (list . "admin.listen" "") -}}
{{- $port := trimPrefix ":" (regexFind ":[0-9]+$" $listen) -}}
{{- if or (not $port) (regexMatch "^(127\\.|localhost|\\[::1\\])" $listen) -}}
{{- fail (printf "config: admin.listen is %q, but probes and metrics come from outside of the pod: use 0.0.0.0:9464" $listen) -}}
{{- end -}}
{{- $port -}}
{{- end -}}

{{/* Where the brokers are, as peers of a NetworkPolicy: networkPolicy.kafka.to, or what the names of kafka.bootstrap.servers tell. */}}
{{- define "runsink.brokers" -}}
{{- if .Values.networkPolicy.kafka.to -}}{{ toYaml .Values.networkPolicy.kafka.to }}
{{- else -}}
{{- $peers := list -}}
{{- range splitList "," (include "runsink.key" (list . "kafka.bootstrap.servers" "")) -}}
{{- $host := regexReplaceAll ":[0-9]+$" (regexReplaceAll "^[A-Za-z0-9_]+://" (trim .) "") "" -}}
{{- $parts := splitList "." (trimSuffix "." (trimSuffix ".cluster.local" (trimSuffix "." $host))) -}}
{{- if regexMatch "^[0-9]+(\\.[0-9]+){3}$" $host -}}
{{- $peers = append $peers (dict "ipBlock" (dict "cidr" (printf "%s/32" $host))) -}}
{{- else if hasPrefix "[" $host -}}
{{- $peers = append $peers (dict "ipBlock" (dict "cidr" (printf "%s/128" (trimAll "[]" $host)))) -}}
{{- else if eq (len $parts) 1 -}}
{{- $peers = append $peers (dict "podSelector" dict) -}}
{{- else if and (ge (len $parts) 3) (eq (last $parts) "svc") -}}
{{- $peers = append $peers (dict "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" (last (initial $parts))))) -}}
{{- else -}}
{{- fail (printf "networkPolicy.kafka.to: set the brokers' peers, e.g. {ipBlock: {cidr: 10.1.0.0/16}}: the name %s does not tell where they are, and open to every address the brokers' ports would be open to every tenant's" $host) -}}
{{- end -}}
{{- end -}}
{{- toYaml ($peers | uniq) -}}
{{- end -}}
{{- end -}}

{{/* The names by which the admin port is asked in the cluster, beside the pod's own. */}}
{{- define "runsink.adminHosts" -}}
{{- $name := include "runsink.fullname" . -}}
{{- $hosts := list -}}
{{- range list "" (printf ".%s" .Release.Namespace) (printf ".%s.svc" .Release.Namespace) (printf ".%s.svc.cluster.local" .Release.Namespace) -}}
{{- $hosts = concat $hosts (list (printf "%s%s" $name .) (printf "*.%s%s" $name .)) -}}
{{- end -}}
{{- join "," $hosts -}}
{{- end -}}

{{/* runsink.ini, and on the way what must not be in it. */}}
{{- define "runsink.ini" -}}
{{- range list "topics" "kafka.bootstrap.servers" -}}
{{- if not (include "runsink.key" (list $ . "")) -}}{{ fail (printf "config: %s has to be set" .) }}{{- end -}}
{{- end -}}
{{- range $key, $value := .Values.config -}}
{{- $text := include "runsink.text" $value -}}
{{- if eq $key "slot" -}}{{ fail "config: slot comes from the pod's name; see slotPrefix" }}{{- end -}}
{{- if kindIs "map" $value -}}{{ fail (printf "config: %s holds a map: keys stand with their whole name, such as window.age" $key) }}{{- end -}}
{{- if or (regexMatch "^kafka\\..*(password|passphrase|secret|ssl\\.key\\.pem|ssl_key|private\\.key\\.pem|oauthbearer\\.config)" $key)
          (regexMatch "\\.(secret_access_key|access_key_id|session_token|signing_secrets)$" $key) (eq $key "egress.proxy") -}}
{{- fail (printf "config: %s is a secret and would be readable in a ConfigMap: name a Secret in `secrets`" $key) -}}
{{- end -}}
{{- if or (hasKey $.Values.secrets $key) (hasKey $.Values.files $key) -}}{{ fail (printf "%s stands in config and in secrets or files" $key) }}{{- end -}}
{{- if contains "\n" $text -}}{{ fail (printf "config: %s holds a line break" $key) }}{{- end }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ $text }}
{{- end -}}
{{- end -}}
{{- range $key, $_ := .Values.secrets }}
{{ $key }} = @{{ include "runsink.secretPath" $key }}
{{- end -}}
{{- range $key, $_ := .Values.files }}
{{ $key }} = {{ include "runsink.secretPath" $key }}
{{- end -}}
{{- end -}}

{{- define "runsink.secretPath" -}}/run/secrets/runsink/{{ . }}{{- end -}}
