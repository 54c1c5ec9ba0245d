// Package lab is a rack in QEMU for tests, and the end-to-end scenarios.
package lab
