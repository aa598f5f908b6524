{{/* Fails if the values contradict each other; renders nothing. */}}
{{- define "tlsidecar-gateway.consistent" -}}
{{- $example := "host:port of the legacy server, such as historian.plant-7.svc:502" -}}
{{- $address := "^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\\[[0-9A-Fa-f:.]+\\]):[1-9][0-9]{0,4}$" -}}
{{- if and (not .Values.backend) (not .Values.server.image) (not .Values.tlsidecar.config) -}}
{{- fail (printf "backend is required: %s; or set server.image to run the server in the same Pod" $example) -}}
{{- end -}}
{{- if and .Values.backend .Values.server.image -}}
{{- fail (printf "backend (%s) and server.image (%s) exclude each other: set one of them" .Values.backend .Values.server.image) -}}
{{- end -}}
{{- if and .Values.backend .Values.tlsidecar.config -}}
{{- fail (printf "backend (%s) has no effect with tlsidecar.config: set it there" .Values.backend) -}}
{{- end -}}
{{- with .Values.backend -}}
{{- if or (not (regexMatch $address .)) (gt (atoi (regexFind "[0-9]+$" .)) 65535) -}}
{{- fail (printf "backend is %q: allowed is %s" . $example) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.server.image (not .Values.tlsidecar.config) (eq (int .Values.server.port) (int .Values.port)) -}}
{{- fail (printf "server.port and port are both %d: the server and tlsidecar share the Pod's ports" (int .Values.port)) -}}
{{- end -}}
{{- with .Values.certificate -}}
{{- if .enabled -}}
{{- if not .dnsNames -}}{{- fail "certificate.dnsNames is empty: the names that devices connect to are required" -}}{{- end -}}
{{- if not .issuerRef.name -}}{{- fail "certificate.issuerRef.name is required: an Issuer or ClusterIssuer of cert-manager" -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Values for the templates of the library, as YAML, with the configuration that this chart writes. */}}
{{- define "tlsidecar-gateway.values" -}}
{{- include "tlsidecar-gateway.consistent" . -}}
{{- $values := deepCopy .Values.tlsidecar -}}
{{- if not $values.config -}}
{{- $_ := set $values "config" (include "tlsidecar-gateway.config" .) -}}
{{- $_ := set $values "ports" (list (dict "name" "tls" "port" .Values.port)) -}}
{{- end -}}
{{- if not .Values.server.image -}}
{{- /* tlsidecar alone is a plain container: a Pod needs one. */ -}}
{{- $_ := set $values "mode" "classic" -}}
{{- end -}}
{{- toYaml (dict "tlsidecar" $values) -}}
{{- end -}}

{{/* The listener. */}}
{{- define "tlsidecar-gateway.config" -}}
{{- $any := ternary "[::]" "0.0.0.0" (hasPrefix "[::]" .Values.tlsidecar.admin.metricsListen) -}}
[log]
format = "json"

[[listener]]
name = "tls"
listen = "{{ $any }}:{{ .Values.port }}"
backend = "{{ .Values.backend | default (printf "127.0.0.1:%d" (int .Values.server.port)) }}"
timeouts.idle = "{{ .Values.idleTimeout }}"
limits.max_connections = {{ .Values.maxConnections | int64 }}

[listener.tls]
certificates = [{ cert = "/etc/tlsidecar/tls/tls.crt", key = "/etc/tlsidecar/tls/tls.key" }]
client_auth = "{{ .Values.clientAuth }}"
{{- if ne .Values.clientAuth "none" }}
client_ca = "/etc/tlsidecar/client-ca/ca.crt"
{{- end }}
{{ end -}}

{{/* Labels by which the Service and the Deployment select the Pods. */}}
{{- define "tlsidecar-gateway.selector" -}}
app.kubernetes.io/name: tlsidecar-gateway
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Time that the Pod has to stop: without a server there is none to wait for. */}}
{{- define "tlsidecar-gateway.graceSeconds" -}}
{{- if .Values.server.image -}}
{{- include "tlsidecar.terminationGracePeriodSeconds" . -}}
{{- else -}}
{{- add (include "tlsidecar.drainSeconds" . | int) 10 -}}
{{- end -}}
{{- end -}}
