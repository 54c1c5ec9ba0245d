package agent

import (
	"os"
	"path/filepath"
	"strings"
)

// lastLine returns the last line of a text that says something, cut to a length that fits into a message.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	l := strings.TrimSpace(lines[len(lines)-1])
	if r := []rune(l); len(r) > 300 {
		l = string(r[:300]) + "…"
	}
	return l
}

// guestDir is where an agent that is a guest keeps the postscripts of a job.
func guestDir(job string) string {
	return filepath.Join(os.TempDir(), "mimeo-agent-"+filepath.Base(filepath.Clean("/"+job)))
}
