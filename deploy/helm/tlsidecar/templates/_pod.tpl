{{/*
What goes into the Pod. Each takes the root context. The numbers of the drain are worked out here, so that
they always fit together: docs/kubernetes.md, "The drain".
*/}}

{{/* The name of everything that is made. */}}
{{- define "tlsidecar.name" -}}
{{- printf "%s-tlsidecar" (.Release.Name | trunc 53 | trimSuffix "-") -}}
{{- end -}}

{{/* Labels for the Pod template; the other templates find the Pods by them. */}}
{{- define "tlsidecar.podLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
tlsidecar/sidecar: "true"
{{- end -}}

{{/* How long a drain takes at the most: 2 s are for the last words of those who are forced, 3 s to spare. */}}
{{- define "tlsidecar.drainSeconds" -}}
{{- add .Values.tlsidecar.drain.delaySeconds .Values.tlsidecar.drain.timeoutSeconds 5 -}}
{{- end -}}

{{/* For the Pod's spec. */}}
{{- define "tlsidecar.terminationGracePeriodSeconds" -}}
{{- add (include "tlsidecar.drainSeconds" . | int) .Values.tlsidecar.drain.backendStopSeconds 10 -}}
{{- end -}}

{{/* The `lifecycle` of the backend's container, which has to outlive the drain. */}}
{{- define "tlsidecar.backendLifecycle" -}}
{{- $seconds := include "tlsidecar.drainSeconds" . -}}
{{- if and (eq .Values.tlsidecar.drain.backendHook "sleep") (semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail "tlsidecar.drain.backendHook sleep needs Kubernetes 1.30 or later: set it to exec" -}}
{{- end -}}
preStop:
{{- if eq .Values.tlsidecar.drain.backendHook "sleep" }}
  sleep:
    seconds: {{ $seconds }}
{{- else }}
  exec:
    command: ["sleep", {{ $seconds | quote }}]
{{- end }}
{{- end -}}

{{/* The `securityContext` of the Pod. */}}
{{- define "tlsidecar.podSecurityContext" -}}
{{- with .Values.tlsidecar.fsGroup -}}
fsGroup: {{ . | int64 }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
{{- end -}}

{{/* For `initContainers`: the sidecar, if it is a native one. Put it before your own. */}}
{{- define "tlsidecar.initContainers" -}}
{{- if eq .Values.tlsidecar.mode "native" }}
{{- include "tlsidecar.container" . }}
{{- end }}
{{- end -}}

{{/* For `containers`: the sidecar, if it is a classic one. Put it after your own. */}}
{{- define "tlsidecar.containers" -}}
{{- if eq .Values.tlsidecar.mode "classic" }}
{{- include "tlsidecar.container" . }}
{{- end }}
{{- end -}}

{{/* The container, as an item of a list. */}}
{{- define "tlsidecar.container" -}}
{{- if and (eq .Values.tlsidecar.mode "native") (semverCompare "<1.29.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail "tlsidecar.mode native needs Kubernetes 1.29 or later: set it to classic" -}}
{{- end -}}
{{- with .Values.tlsidecar -}}
- name: tlsidecar
  image: {{ printf "%s:%s" .image.repository .image.tag | quote }}
  imagePullPolicy: {{ .image.pullPolicy }}
  {{- if eq .mode "native" }}
  restartPolicy: Always
  {{- end }}
  command: ["/tlsidecar"]
  # On all addresses, because kubelet and Prometheus come from outside the Pod.
  args: ["--config", "/etc/tlsidecar/config/tlsidecar.toml", "--admin", "0.0.0.0:9901"]
  env:
    - name: TOKIO_WORKER_THREADS
      value: {{ .workerThreads | quote }}
  ports:
    {{- range .ports }}
    - name: {{ .name }}
      containerPort: {{ .port }}
      protocol: TCP
    {{- end }}
    - name: admin
      containerPort: 9901
      protocol: TCP
  # The backend starts once this has succeeded, so it must not need the backend: it does not.
  startupProbe:
    httpGet:
      path: /startupz
      port: 9901
    periodSeconds: 1
    timeoutSeconds: 1
    failureThreshold: 60
  readinessProbe:
    httpGet:
      path: /readyz
      port: 9901
    periodSeconds: 5
    timeoutSeconds: 3
    failureThreshold: 3
  # Slow to give up: a restart disconnects every device.
  livenessProbe:
    httpGet:
      path: /livez
      port: 9901
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
    terminationGracePeriodSeconds: 10
  lifecycle:
    preStop:
      # Begins the drain and returns at once.
      exec:
        command: ["/tlsidecar", "drain"]
  resources:
    {{- toYaml .resources | nindent 4 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: ["ALL"]
    seccompProfile:
      type: RuntimeDefault
  volumeMounts:
    # Whole directories: what is mounted by subPath is never renewed.
    - name: tlsidecar-config
      mountPath: /etc/tlsidecar/config
      readOnly: true
    - name: tlsidecar-tls
      mountPath: /etc/tlsidecar/tls
      readOnly: true
    - name: tlsidecar-client-ca
      mountPath: /etc/tlsidecar/client-ca
      readOnly: true
{{- end }}
{{- end -}}

{{/* For `volumes`. */}}
{{- define "tlsidecar.volumes" -}}
- name: tlsidecar-config
  configMap:
    name: {{ include "tlsidecar.name" . }}
- name: tlsidecar-tls
  secret:
    secretName: {{ .Values.tlsidecar.tlsSecret }}
    # Without an fsGroup readable for all, but mounted into the sidecar's container alone.
    defaultMode: {{ if .Values.tlsidecar.fsGroup }}0440{{ else }}0444{{ end }}
- name: tlsidecar-client-ca
  secret:
    secretName: {{ .Values.tlsidecar.clientCaSecret }}
    optional: true
    # The certificates alone: in a Secret of cert-manager the CA's key lies beside them.
    items:
      - key: ca.crt
        path: ca.crt
      - key: ca.crl
        path: ca.crl
    defaultMode: 0444
{{- end -}}
