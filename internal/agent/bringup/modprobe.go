package bringup

import (
	"fmt"
	"os"
	"strings"
)

// Modprobe is what the kernel calls when it wants a module by itself, as "modprobe -q -- nfs". It returns the exit
// status.
func Modprobe(args []string) int {
	quiet := false
	status := 0
	p, _ := ReadParams() // only its module options would be lost
	l, err := Drivers("/", p.Line, func(string, ...any) {})
	for _, a := range args {
		switch {
		case strings.HasPrefix(a, "-"):
			quiet = quiet || a == "-q"
			continue
		case err == nil:
			err = l.Load(a)
		}
		if err != nil {
			status = 1
			if !quiet {
				fmt.Fprintln(os.Stderr, "modprobe:", err)
			}
			err = nil
		}
	}
	return status
}
