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

{{/* What stands under metadata: (list $ name labels annotations), without the name where it is empty. commonLabels and commonAnnotations
are everywhere; what the chart itself says is nobody's to change, for selectors rest on it. */}}
{{- define "runsink.metadata" -}}
{{- $root := index . 0 -}}
{{- $more := concat (slice . 2) (list dict dict) -}}
{{- $own := include "runsink.labels" $root | fromYaml -}}
{{- $labels := mergeOverwrite dict $root.Values.commonLabels (index $more 0) -}}
{{- range $name, $_ := $labels }}{{ if hasKey $own $name }}{{ fail (printf "labels: %s is the chart's own" $name) }}{{ end }}{{ end -}}
{{- with index . 1 -}}
name: {{ . }}
{{ end -}}
labels: {{- toYaml (merge $own $labels) | nindent 2 }}
{{- with mergeOverwrite dict $root.Values.commonAnnotations (index $more 1) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "runsink.serviceAccount" -}}
{{- with .Values.serviceAccount -}}
{{- if .create }}{{ default (include "runsink.fullname" $) .name }}{{ else }}{{ default "default" .name }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* Where Prometheus scrapes, for PodMonitor and ServiceMonitor. */}}
{{- define "runsink.endpoint" -}}
port: admin
path: /metrics
interval: {{ .interval }}
# The alerts look for "runsink" in this label, whatever the release is called.
relabelings:
  - {targetLabel: job, replacement: runsink/{{ .release.Namespace }}/{{ .release.Name }}}
{{- end -}}

{{- define "runsink.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end -}}
{{- end -}}

{{/* A value of the configuration as runsink reads it. A number from a values file is a float, which would print as 1e+06. */}}
{{- define "runsink.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) -}}{{ int64 . }}
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
{{- $n := regexReplaceAll "^0+([0-9])" (regexFind "^[0-9]+" .) "${1}" | int64 -}}
{{- $factor := get (dict "s" 1 "m" 60 "h" 3600 "d" 86400) (regexFind "[a-z]+$" .) -}}
{{- if $factor -}}{{ mul $n $factor }}{{- else -}}{{ div (add $n 999) 1000 }}{{- end -}}
{{- end -}}

{{/* Whole MiB of a size such as 64KiB, 256MiB or 1GiB, rounded up. */}}
{{- define "runsink.mebibytes" -}}
{{- if not (regexMatch "^[0-9]+([KMGT]iB)?$" .) -}}{{ fail (printf "memory.budget: %q is not a size such as 256MiB" .) }}{{- end -}}
{{- $n := regexReplaceAll "^0+([0-9])" (regexFind "^[0-9]+" .) "${1}" | int64 -}}
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

{{/* A number of a key with its unit, held against the key's bounds: (list key text schema-of-the-key). Divided instead of
multiplied, so that nothing overflows. */}}
{{- define "runsink.bounds" -}}
{{- $key := index . 0 -}}{{- $text := index . 1 -}}{{- $schema := index . 2 -}}
{{- $unit := get $schema "x-unit" -}}
{{- $units := get (dict "number" (dict "" 1) "time" (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000)
                        "size" (dict "" 1 "KiB" 1024 "MiB" 1048576 "GiB" 1073741824 "TiB" 1099511627776)) $unit -}}
{{- $digits := regexFind "^-?[0-9]+" $text -}}
{{- $factor := get $units (trimPrefix $digits $text) -}}
{{- if not (and $digits $factor) -}}
{{- fail (printf "config: %s: %q is not a %s such as %s" $key $text $unit (get (dict "number" "16" "time" "25s" "size" "256MiB") $unit)) -}}
{{- end -}}
{{- $n := regexReplaceAll "^(-?)0+([0-9])" $digits "${1}${2}" -}}
{{- $min := div (add (get $schema "minimum" | int64) $factor -1) $factor -}}
{{- $max := div (get $schema "maximum" | int64) $factor -}}
{{- if or (gt (len $n) 14) (lt (int64 $n) $min) (gt (int64 $n) $max) -}}
{{- fail (printf "config: %s: %q is out of bounds: %s" $key $text (get $schema "x-takes")) -}}
{{- end -}}
{{- end -}}

{{/* runsink.ini, and on the way what must not be in it. */}}
{{- define "runsink.ini" -}}
{{- range list "topics" "kafka.bootstrap.servers" -}}
{{- if not (include "runsink.key" (list $ . "")) -}}{{ fail (printf "config: %s has to be set" .) }}{{- end -}}
{{- end -}}
{{- $known := get (.Files.Get "files/config.schema.json" | fromJson) "properties" -}}
{{- $secret := "^kafka\\..*(password|passphrase|secret|ssl\\.key\\.pem|ssl_key|private\\.key\\.pem|oauthbearer\\.config)" -}}
{{- range $key, $value := .Values.config -}}
{{- $schema := default dict (get $known $key) -}}
{{- $text := include "runsink.text" $value -}}
{{- if eq $key "slot" -}}{{ fail "config: slot comes from the pod's name; see slotPrefix" }}{{- end -}}
{{- if kindIs "map" $value -}}{{ fail (printf "config: %s holds a map: keys stand with their whole name, such as window.age" $key) }}{{- end -}}
{{- if or (regexMatch $secret $key) (hasKey $schema "x-secret") -}}
{{- fail (printf "config: %s is a secret and would be readable in a ConfigMap: name a Secret in `secrets`" $key) -}}
{{- end -}}
{{- if or (hasKey $.Values.secrets $key) (hasKey $.Values.files $key) -}}{{ fail (printf "%s stands in config and in secrets or files" $key) }}{{- end -}}
{{- if contains "\n" $text -}}{{ fail (printf "config: %s holds a line break" $key) }}{{- end }}
{{- if not (kindIs "invalid" $value) }}
{{- if hasKey $schema "x-unit" -}}{{ include "runsink.bounds" (list $key $text $schema) }}{{- end }}
{{ $key }} = {{ $text }}
{{- end -}}
{{- end -}}
{{- range $key, $_ := .Values.secrets }}
{{- if not (or (regexMatch $secret $key) (hasKey (default dict (get $known $key)) "x-secret")) -}}
{{- fail (printf "secrets: %s is no key that can be read from a Secret: one that names a file belongs into `files`, any other into `config`" $key) -}}
{{- end }}
{{ $key }} = @{{ include "runsink.secretPath" $key }}
{{- end -}}
{{- range $key, $_ := .Values.files }}
{{- if or (regexMatch $secret $key) (hasKey (default dict (get $known $key)) "x-secret") -}}
{{- fail (printf "files: %s is a secret, not the path of a file: name it in `secrets`" $key) -}}
{{- else if not (or (hasKey $known $key) (hasPrefix "kafka." $key)) -}}
{{- fail (printf "files: the configuration has no key %s" $key) -}}
{{- end }}
{{ $key }} = {{ include "runsink.secretPath" $key }}
{{- end -}}
{{- end -}}

{{- define "runsink.secretPath" -}}/run/secrets/runsink/{{ . }}{{- end -}}
