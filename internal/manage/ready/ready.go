// Package ready holds the postscripts that come with the management node.
package ready

import (
	"embed"
	"strings"
)

//go:embed scripts
var scripts embed.FS

// Script is a postscript that can be used by its name.
type Script struct {
	Name    string
	Stage   string // the stage that it is made for
	About   string // one line
	Content []byte
}

// List gives all of them in order of their names.
func List() []Script {
	entries, err := scripts.ReadDir("scripts")
	if err != nil {
		panic("ready: " + err.Error()) // embedded: cannot fail
	}
	var out []Script
	for _, e := range entries {
		if s, ok := Get(e.Name()); ok {
			out = append(out, s)
		}
	}
	return out
}

// Get gives the script of that name; false where there is none. Its second line says the stage and what it does.
func Get(name string) (Script, bool) {
	if strings.ContainsAny(name, "/\\") {
		return Script{}, false
	}
	text, err := scripts.ReadFile("scripts/" + name)
	if err != nil {
		return Script{}, false
	}
	lines := strings.SplitN(string(text), "\n", 3)
	if len(lines) < 3 {
		return Script{}, false
	}
	stage, about, ok := strings.Cut(strings.TrimPrefix(lines[1], "# "), ": ")
	return Script{Name: name, Stage: stage, About: about, Content: text}, ok
}
