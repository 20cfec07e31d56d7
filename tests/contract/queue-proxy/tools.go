//go:build tools

// Package tools names the program that `python -m tests.contract.install` builds, for `go mod tidy`.
package tools

import _ "knative.dev/serving/cmd/queue"
