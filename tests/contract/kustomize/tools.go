//go:build tools

// Package tools names the program that `python -m tests.contract.install` builds, for `go mod tidy`.
package tools

import _ "sigs.k8s.io/kustomize/kustomize/v5"
