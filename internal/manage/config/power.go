package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"mimeo/internal/cluster/node"
)

// Power says how the nodes' power is switched.
type Power struct {
	Parallel int                `yaml:"parallel"` // BMCs that are spoken to at once; default 200
	Stagger  int                `yaml:"stagger"`  // power-ons a second; default 10
	Exec     map[string]Command `yaml:"exec"`     // programs that switch nodes, by the names that exec:NAME has
}

// Command is a program that switches nodes.
type Command struct {
	Run     []string `yaml:"run"`     // absolute path, arguments
	Timeout Duration `yaml:"timeout"` // for one call; default 30s
}

func (c *Config) checkPower() error {
	p := &c.Power
	if p.Parallel == 0 {
		p.Parallel = 200
	}
	if p.Stagger == 0 {
		p.Stagger = 10
	}
	if p.Parallel < 1 || p.Parallel > 1000 {
		return c.wrong("power.parallel", "%d: want 1 to 1000", p.Parallel)
	}
	if p.Stagger < 1 || p.Stagger > 1000 {
		return c.wrong("power.stagger", "%d: want 1 to 1000", p.Stagger)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Exec)) {
		x := p.Exec[name]
		key := "power.exec." + name
		if !node.IsCommand(name) {
			return c.wrong("power.exec", "%q: want a name of letters, digits, - and _", name)
		}
		if err := checkProgram(x.Run); err != nil {
			return c.wrong(key+".run", "%v", err)
		}
		if x.Timeout == 0 {
			x.Timeout = Duration(30 * time.Second)
		}
		if d := time.Duration(x.Timeout); d > 10*time.Minute {
			return c.wrong(key+".timeout", "%v: want 10m at most", d)
		}
		p.Exec[name] = x
	}
	return nil
}

// checkProgram tells what is wrong with a program: it must be there, run, and be nobody else's to change.
func checkProgram(program []string) error {
	if len(program) == 0 {
		return errors.New("is missing")
	}
	path := program[0]
	if !strings.HasPrefix(path, "/") {
		return fmt.Errorf("%q: want an absolute path", path)
	}
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !st.Mode().IsRegular() || st.Mode()&0o111 == 0:
		return fmt.Errorf("%s is no program", path)
	case st.Mode()&0o002 != 0:
		return fmt.Errorf("%s can be written by anybody", path)
	}
	return nil
}
