// Package netboot decides what a node boots now, and renders the script for it.
package netboot
