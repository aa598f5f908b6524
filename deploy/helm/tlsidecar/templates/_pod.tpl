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

{{/*
`securityContext` for the Pod. Ports below 1024 need the sysctl: a capability has no effect for a user other than root
with allowPrivilegeEscalation: false. Kubernetes counts it as a safe one.
*/}}
{{- define "tlsidecar.podSecurityContext" -}}
{{- $lowest := 1024 -}}
{{- range .Values.tlsidecar.ports }}{{ $lowest = min $lowest (int .port) }}{{ end -}}
{{- with .Values.tlsidecar.fsGroup -}}
fsGroup: {{ . | int64 }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
{{- if lt (int $lowest) 1024 }}
sysctls:
  - name: net.ipv4.ip_unprivileged_port_start
    value: {{ $lowest | quote }}
{{- end }}
{{- end -}}

{{/* Items for the Pod's `imagePullSecrets`. */}}
{{- define "tlsidecar.imagePullSecrets" -}}
{{- range .Values.tlsidecar.image.pullSecrets }}
- name: {{ . }}
{{- end }}
{{- end -}}

{{/* Number of the port that answers metrics and probes. */}}
{{- define "tlsidecar.metricsPort" -}}
{{- regexFind "[0-9]+$" .Values.tlsidecar.admin.metricsListen -}}
{{- end -}}

{{/* Fails if the values contradict each other; renders nothing. */}}
{{- define "tlsidecar.consistent" -}}
{{- with .Values.tlsidecar -}}
{{- if not (regexMatch "^(127\\.0\\.0\\.1|\\[::1\\]):[1-9][0-9]{3,4}$" .admin.listen) -}}
{{- fail (printf "tlsidecar.admin.listen is %q: allowed are 127.0.0.1 and [::1] with a port, because the admin port can drain the Pod" .admin.listen) -}}
{{- end -}}
{{- if not (regexMatch "^(0\\.0\\.0\\.0|\\[::\\]):[1-9][0-9]{3,4}$" .admin.metricsListen) -}}
{{- fail (printf "tlsidecar.admin.metricsListen is %q: allowed are 0.0.0.0 and [::] with a port, because the kubelet and Prometheus connect to it" .admin.metricsListen) -}}
{{- end -}}
{{- $admin := regexFind "[0-9]+$" .admin.listen -}}
{{- $metrics := regexFind "[0-9]+$" .admin.metricsListen -}}
{{- if eq $admin $metrics -}}
{{- fail (printf "tlsidecar.admin: listen and metricsListen have the same port, %s" $admin) -}}
{{- end -}}
{{- $taken := dict $admin "tlsidecar.admin.listen" $metrics "tlsidecar.admin.metricsListen" -}}
{{- $names := dict -}}
{{- range .ports -}}
{{- $port := int64 .port | toString -}}
{{- with get $taken $port -}}
{{- fail (printf "tlsidecar.ports: port %s is already that of %s" $port .) -}}
{{- end -}}
{{- if hasKey $names .name -}}
{{- fail (printf "tlsidecar.ports: two ports have the name %s" .name) -}}
{{- end -}}
{{- if not (regexMatch (printf "listen[\"']?\\s*=\\s*[\"'][^\"'\n]*:%s[\"']" $port) $.Values.tlsidecar.config) -}}
{{- fail (printf "tlsidecar.ports: no listener of tlsidecar.config listens on port %s" $port) -}}
{{- end -}}
{{- $_ := set $taken $port (printf "the port %s" .name) -}}
{{- $_ := set $names .name true -}}
{{- end -}}
{{- $secrets := dict -}}
{{- range .secrets -}}
{{- if hasKey $secrets .name -}}
{{- fail (printf "tlsidecar.secrets: two Secrets have the name %s" .name) -}}
{{- end -}}
{{- $_ := set $secrets .name true -}}
{{- end -}}
{{- end -}}
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
{{- include "tlsidecar.consistent" . -}}
{{- $metrics := include "tlsidecar.metricsPort" . -}}
{{- with .Values.tlsidecar -}}
- name: tlsidecar
  {{- with .image.digest }}
  image: {{ printf "%s@%s" $.Values.tlsidecar.image.repository . | quote }}
  {{- else }}
  image: {{ printf "%s:%s" .image.repository .image.tag | quote }}
  {{- end }}
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
    - {{ .admin.listen | quote }}
    - --metrics-listen
    - {{ .admin.metricsListen | quote }}
  env:
    - name: TOKIO_WORKER_THREADS
      value: {{ .workerThreads | quote }}
    {{- with .extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    {{- range .ports }}
    - name: {{ .name }}
      containerPort: {{ .port }}
      protocol: TCP
    {{- end }}
    - name: metrics
      containerPort: {{ $metrics }}
      protocol: TCP
  # The backend starts after this probe has succeeded. The probe does not depend on the backend.
  startupProbe:
    httpGet:
      path: /startupz
      port: {{ $metrics }}
    periodSeconds: 1
    timeoutSeconds: 1
    failureThreshold: 60
  readinessProbe:
    httpGet:
      path: /readyz
      port: {{ $metrics }}
    periodSeconds: 5
    timeoutSeconds: 3
    failureThreshold: 3
  # A high threshold, because a restart disconnects every device.
  livenessProbe:
    httpGet:
      path: /livez
      port: {{ $metrics }}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
    terminationGracePeriodSeconds: 10
  lifecycle:
    preStop:
      # Starts the drain and returns at once.
      exec:
        command: {{ if eq .admin.listen "127.0.0.1:9901" }}["/tlsidecar", "drain"]{{ else }}["/tlsidecar", "drain", "--admin", {{ .admin.listen | quote }}]{{ end }}
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
    {{- range .secrets }}
    - name: tlsidecar-{{ .name }}
      mountPath: /etc/tlsidecar/{{ .name }}
      readOnly: true
    {{- end }}
    {{- with .extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
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
    defaultMode: {{ include "tlsidecar.keyMode" . }}
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
{{- range .Values.tlsidecar.secrets }}
- name: tlsidecar-{{ .name }}
  secret:
    secretName: {{ .secretName }}
    {{- if .optional }}
    optional: true
    {{- end }}
    {{- with .items }}
    items:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    defaultMode: {{ include "tlsidecar.keyMode" $ }}
{{- end }}
{{- with .Values.tlsidecar.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Mode of the files of a Secret with a key. */}}
{{- define "tlsidecar.keyMode" -}}
{{- if .Values.tlsidecar.fsGroup }}0440{{ else }}0444{{ end }}
{{- end -}}
