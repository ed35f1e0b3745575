{{/* Names and parts that the roles share. Each takes (dict "root" $ "role" "controlplane"|"gateway"|"worker"). */}}

{{- define "mesh.name" -}}
{{- printf "%s-%s" .root.Release.Name .role | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "mesh.selector" -}}
app.kubernetes.io/name: mesh
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{- define "mesh.labels" -}}
{{ include "mesh.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "mesh.image" -}}
{{- $image := printf "%s:%s" .root.Values.image.repository (.root.Values.image.tag | default .root.Chart.AppVersion) -}}
{{- if eq .role "worker" }}{{ .root.Values.worker.image | default $image }}{{ else }}{{ $image }}{{ end -}}
{{- end }}

{{/* The pod; `args`, `env`, `ports` are lists, `state` is the size of what it keeps. */}}
{{- define "mesh.pod" -}}
{{- $values := index .root.Values .role -}}
metadata:
  labels:
    {{- include "mesh.selector" . | nindent 4 }}
  annotations:
    prometheus.io/scrape: "true"
    prometheus.io/port: "9901"
spec:
  serviceAccountName: {{ .root.Release.Name }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .root.Values.imagePullSecrets }}
  imagePullSecrets: {{ toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile: {type: RuntimeDefault}
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "mesh.selector" . | nindent 10 }}
  {{- with $values.nodeSelector }}
  nodeSelector: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations: {{ toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .role }}
      image: {{ include "mesh.image" . }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args: {{ concat .args (list "--token-file=/etc/mesh/token/token" "--admin-host=0.0.0.0") $values.flags | toYaml | nindent 8 }}
      env: {{ concat .env ($values.env | default list) | toYaml | nindent 8 }}
      ports: {{ append .ports (dict "name" "admin" "containerPort" 9901) | toYaml | nindent 8 }}
      startupProbe:
        httpGet: {path: /livez, port: admin}
        periodSeconds: 2
        failureThreshold: 30
      livenessProbe:
        httpGet: {path: /livez, port: admin}
        periodSeconds: 10
        timeoutSeconds: 3
        failureThreshold: 3
      readinessProbe:
        httpGet: {path: /readyz, port: admin}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      resources: {{ toYaml $values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: token, mountPath: /etc/mesh/token, readOnly: true}
        - {name: state, mountPath: /var/lib/mesh}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - name: token
      secret: {secretName: {{ .root.Values.token.secretName }}, defaultMode: 0440}
    - name: state
      emptyDir: {sizeLimit: {{ .state }}}
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
{{- end }}

{{- define "mesh.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "mesh.name" . }}
  labels:
    {{- include "mesh.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "mesh.selector" . | nindent 6 }}
{{- end }}

{{- define "mesh.ip" -}}
{{- dict "name" "POD_IP" "valueFrom" (dict "fieldRef" (dict "fieldPath" "status.podIP")) | toJson -}}
{{- end }}
