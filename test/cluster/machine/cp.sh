# shellcheck shell=bash
# The control plane's machine: etcd and the three Kubernetes programs. Sourced by boot.sh.
mount -t tmpfs -o mode=755 tmpfs /run

# A test cluster's data need not survive the host: no fsync is twice as fast.
keep etcd etcd --data-dir="$DISK/etcd" --unsafe-no-fsync --log-level=warn \
  --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 --listen-peer-urls=http://127.0.0.1:2380 &

# enable-aggregator-routing: webhooks in pods are reached directly, there is no kube-proxy here.
keep kube-apiserver kube-apiserver \
  --etcd-servers=http://127.0.0.1:2379 --bind-address="$API_IP" --advertise-address="$API_IP" --secure-port=6443 \
  --service-cluster-ip-range="$SERVICE_CIDR" --allow-privileged=true --authorization-mode=Node,RBAC \
  --enable-admission-plugins=NodeRestriction --enable-aggregator-routing=true \
  --client-ca-file="$KEYS/ca.crt" --tls-cert-file="$KEYS/apiserver.crt" --tls-private-key-file="$KEYS/apiserver.key" \
  --kubelet-certificate-authority="$KEYS/ca.crt" --kubelet-preferred-address-types=InternalIP \
  --kubelet-client-certificate="$KEYS/admin.crt" --kubelet-client-key="$KEYS/admin.key" \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local \
  --service-account-key-file="$KEYS/sa.pub" --service-account-signing-key-file="$KEYS/sa.key" \
  --requestheader-client-ca-file="$KEYS/ca.crt" --requestheader-allowed-names=front-proxy \
  --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
  --requestheader-extra-headers-prefix=X-Remote-Extra- \
  --proxy-client-cert-file="$KEYS/front-proxy.crt" --proxy-client-key-file="$KEYS/front-proxy.key" --profiling=false &

# The default API rate makes the controllers' start 5 s longer.
client=(--kube-api-qps=500 --kube-api-burst=1000 --leader-elect=false --bind-address=127.0.0.1 --profiling=false)
keep kube-controller-manager kube-controller-manager --kubeconfig="$KEYS/controller-manager.kubeconfig" "${client[@]}" \
  --use-service-account-credentials=true --service-account-private-key-file="$KEYS/sa.key" --root-ca-file="$KEYS/ca.crt" \
  --cluster-signing-cert-file="$KEYS/ca.crt" --cluster-signing-key-file="$KEYS/ca.key" \
  --allocate-node-cidrs=false --node-monitor-grace-period="$NODE_GRACE" &
keep kube-scheduler kube-scheduler --kubeconfig="$KEYS/scheduler.kubeconfig" "${client[@]}" &

# With nodes that run no containers control has no node to run on.
if [[ $KUBELET == churn ]]; then
  root=$(readlink -f "$here/../../..")
  until [[ -e $KEYS/control.kubeconfig ]]; do sleep 0.2; done
  keep trackbed-control "$root/node_modules/.bin/node" "$CONTROL/src/control/main.ts" --kubernetes --kubeconfig="$KEYS/control.kubeconfig" \
    --listen="$API_IP:15012" &
fi
