//go:build programs

// Package kubernetes names the programs that `make kube` builds: an API server to test against, and its store.
package kubernetes

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
)
