{{/*
Parts of the Pod. Each template takes the root context. The durations of the drain are computed here, so that
they are always consistent: docs/kubernetes-reference.md, "The drain".
*/}}

{{/* Name of all created objects. */}}
{{- define "tlsidecar.name" -}}
{{- printf "%s-tlsidecar" (.Release.Name | trunc 53 | trimSuffix "-") -}}
{{- end -}}

{{/* Labels for the Pod template. The other templates select the Pods by them. */}}
{{- define "tlsidecar.podLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
tlsidecar/sidecar: "true"
{{- end -}}

{{/* Maximum duration of a drain, including 2 s for the close_notify of forced connections and 3 s of reserve. */}}
{{- define "tlsidecar.drainSeconds" -}}
{{- add .Values.tlsidecar.drain.delaySeconds .Values.tlsidecar.drain.timeoutSeconds 5 -}}
{{- end -}}

{{/* Value for the Pod's spec. */}}
{{- define "tlsidecar.terminationGracePeriodSeconds" -}}
{{- add (include "tlsidecar.drainSeconds" . | int) .Values.tlsidecar.drain.backendStopSeconds 10 -}}
{{- end -}}

{{/* `lifecycle` for the backend's container, which has to run until the drain is complete. */}}
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

{{/* `securityContext` for the Pod. */}}
{{- define "tlsidecar.podSecurityContext" -}}
{{- with .Values.tlsidecar.fsGroup -}}
fsGroup: {{ . | int64 }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
{{- end -}}

{{/* For `initContainers`: the native sidecar. Put it before your own init containers. */}}
{{- define "tlsidecar.initContainers" -}}
{{- if eq .Values.tlsidecar.mode "native" }}
{{- include "tlsidecar.container" . }}
{{- end }}
{{- end -}}

{{/* For `containers`: the classic sidecar. Put it after your own containers. */}}
{{- define "tlsidecar.containers" -}}
{{- if eq .Values.tlsidecar.mode "classic" }}
{{- include "tlsidecar.container" . }}
{{- end }}
{{- end -}}

{{/* The container, as a list item. */}}
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
  # The kubelet and Prometheus connect from outside the Pod, to an address that answers only probes and metrics. The
  # admin port, which can drain the Pod and end sessions, is on its loopback address.
  args:
    - --config
    - /etc/tlsidecar/config/tlsidecar.toml
    - --admin
    - 127.0.0.1:9901
    - --metrics-listen
    - 0.0.0.0:9902
  env:
    - name: TOKIO_WORKER_THREADS
      value: {{ .workerThreads | quote }}
  ports:
    {{- range .ports }}
    - name: {{ .name }}
      containerPort: {{ .port }}
      protocol: TCP
    {{- end }}
    - name: metrics
      containerPort: 9902
      protocol: TCP
  # The backend starts after this probe has succeeded. The probe does not depend on the backend.
  startupProbe:
    httpGet:
      path: /startupz
      port: 9902
    periodSeconds: 1
    timeoutSeconds: 1
    failureThreshold: 60
  readinessProbe:
    httpGet:
      path: /readyz
      port: 9902
    periodSeconds: 5
    timeoutSeconds: 3
    failureThreshold: 3
  # A high threshold, because a restart disconnects every device.
  livenessProbe:
    httpGet:
      path: /livez
      port: 9902
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
    terminationGracePeriodSeconds: 10
  lifecycle:
    preStop:
      # Starts the drain and returns at once.
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
    # Whole directories, because subPath mounts are never updated.
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

{{/* Items for `volumes`. */}}
{{- define "tlsidecar.volumes" -}}
- name: tlsidecar-config
  configMap:
    name: {{ include "tlsidecar.name" . }}
- name: tlsidecar-tls
  secret:
    secretName: {{ .Values.tlsidecar.tlsSecret }}
    # Without an fsGroup, readable by everybody, but mounted only into the sidecar's container.
    defaultMode: {{ if .Values.tlsidecar.fsGroup }}0440{{ else }}0444{{ end }}
- name: tlsidecar-client-ca
  secret:
    secretName: {{ .Values.tlsidecar.clientCaSecret }}
    optional: true
    # Only the certificates: a Secret of cert-manager also contains the CA's key.
    items:
      - key: ca.crt
        path: ca.crt
      - key: ca.crl
        path: ca.crl
    defaultMode: 0444
{{- end -}}
