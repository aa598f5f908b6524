{{/*
Objects beside the Deployment. Each template gives a complete object, or nothing if it is disabled. Each takes
the root context; the last one also takes the Deployment's name.
*/}}

{{/* Content of tlsidecar.toml. */}}
{{- define "tlsidecar.config" -}}
{{- $config := required "tlsidecar.config is required: the listeners of tlsidecar.toml" .Values.tlsidecar.config -}}
{{- if regexMatch "(?m)^\\s*(\\[\\s*[\"']?shutdown[\"']?\\s*\\]|[\"']?shutdown[\"']?\\s*[.=])" $config -}}
{{- fail "tlsidecar.config must not set [shutdown]: it is computed from tlsidecar.drain" -}}
{{- end -}}
[shutdown]
delay = "{{ .Values.tlsidecar.drain.delaySeconds }}s"
drain_spread = "{{ min .Values.tlsidecar.drain.spreadSeconds .Values.tlsidecar.drain.timeoutSeconds }}s"
drain_timeout = "{{ .Values.tlsidecar.drain.timeoutSeconds }}s"

{{ $config }}
{{- end -}}

{{/*
The ConfigMap. Do not add its checksum to the Pod's annotations: each change would restart every Pod and disconnect
every device, although tlsidecar reloads the file.
*/}}
{{- define "tlsidecar.configMap" -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "tlsidecar.name" . }}
data:
  tlsidecar.toml: |
    {{- include "tlsidecar.config" . | nindent 4 }}
{{- end -}}

{{/* Closes every port except those of the listeners, and the port of the metrics for the monitoring namespace. */}}
{{- define "tlsidecar.networkPolicy" -}}
{{- with .Values.tlsidecar.networkPolicy -}}
{{- if .enabled -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "tlsidecar.name" $ }}
spec:
  podSelector:
    matchLabels:
      {{- include "tlsidecar.podLabels" $ | nindent 6 }}
  policyTypes:
    - Ingress
  ingress:
    - ports:
        {{- range $.Values.tlsidecar.ports }}
        - protocol: TCP
          port: {{ .port }}
        {{- end }}
    - from:
        - namespaceSelector:
            matchLabels:
              kubernetes.io/metadata.name: {{ .monitoringNamespace }}
      ports:
        - protocol: TCP
          port: {{ include "tlsidecar.metricsPort" $ }}
    {{- with .extraIngress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Limits the number of Pods that draining of nodes removes at a time. */}}
{{- define "tlsidecar.podDisruptionBudget" -}}
{{- with .Values.tlsidecar.podDisruptionBudget -}}
{{- if .enabled -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "tlsidecar.name" $ }}
spec:
  maxUnavailable: {{ .maxUnavailable }}
  selector:
    matchLabels:
      {{- include "tlsidecar.podLabels" $ | nindent 6 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* For the Prometheus operator. */}}
{{- define "tlsidecar.podMonitor" -}}
{{- with .Values.tlsidecar.podMonitor -}}
{{- if .enabled -}}
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ include "tlsidecar.name" $ }}
  {{- with .labels }}
  labels:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  selector:
    matchLabels:
      {{- include "tlsidecar.podLabels" $ | nindent 6 }}
  podMetricsEndpoints:
    - portNumber: {{ include "tlsidecar.metricsPort" $ }}
      path: /metrics
      interval: {{ .interval }}
      scrapeTimeout: {{ .scrapeTimeout }}
      honorLabels: false
      relabelings:
        # For agents that do not support portNumber and would scrape every port. An operator before 0.79
        # lacks this field, and the API server rejects the object.
        - sourceLabels: [__meta_kubernetes_pod_container_port_number]
          regex: {{ include "tlsidecar.metricsPort" $ | quote }}
          action: keep
        # One job per release: the rules sum the instances of a job.
        - replacement: {{ printf "%s/tlsidecar-%s" $.Release.Namespace $.Release.Name }}
          targetLabel: job
{{- end }}
{{- end }}
{{- end -}}

{{/* Scales by open connections: include "tlsidecar.hpa" (dict "root" . "deployment" "its name"). */}}
{{- define "tlsidecar.hpa" -}}
{{- $deployment := .deployment -}}
{{- with .root.Values.tlsidecar.hpa -}}
{{- if .enabled -}}
{{- if lt (int .maxReplicas) (int .minReplicas) -}}
{{- fail "tlsidecar.hpa.maxReplicas is less than minReplicas" -}}
{{- end -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "tlsidecar.name" $.root }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ $deployment }}
  minReplicas: {{ .minReplicas }}
  maxReplicas: {{ .maxReplicas }}
  metrics:
    - type: Pods
      pods:
        metric:
          name: tlsidecar_connections_active
        target:
          type: AverageValue
          averageValue: {{ .connectionsPerPod | int64 | quote }}
  behavior:
    scaleUp:
      stabilizationWindowSeconds: 60
      policies:
        - type: Pods
          value: 2
          periodSeconds: 60
    scaleDown:
      # Every removed Pod disconnects its devices.
      stabilizationWindowSeconds: 1800
      policies:
        - type: Pods
          value: 1
          periodSeconds: 300
{{- end }}
{{- end }}
{{- end -}}

{{/* A server certificate of cert-manager: include "tlsidecar.certificate" (dict "root" . "certificate" its values). */}}
{{- define "tlsidecar.certificate" -}}
{{- $root := .root -}}
{{- with .certificate -}}
{{- if .enabled -}}
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: {{ include "tlsidecar.name" $root }}
spec:
  secretName: {{ $root.Values.tlsidecar.tlsSecret }}
  commonName: {{ first .dnsNames | quote }}
  dnsNames:
    {{- toYaml .dnsNames | nindent 4 }}
  duration: 2160h
  privateKey:
    algorithm: ECDSA
    size: 256
    rotationPolicy: Always
  usages:
    - digital signature
    - server auth
  issuerRef:
    name: {{ .issuerRef.name }}
    kind: {{ .issuerRef.kind }}
    group: cert-manager.io
{{- end }}
{{- end }}
{{- end -}}
