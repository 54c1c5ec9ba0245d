package config

import (
	"mimeo/internal/cluster/node"
)

// Console says how the nodes' serial consoles are logged.
type Console struct {
	Log  string `yaml:"log"`  // all, attached (while somebody is), none; default attached. A node's label console.log goes first
	Size string `yaml:"size"` // of a log file, after which the next one is begun; default 16MiB
	Keep int    `yaml:"keep"` // old log files of a node, compressed; default 8

	Bytes int64 `yaml:"-"` // Size
}

func (c *Config) checkConsole() (err error) {
	o := &c.Console
	def(&o.Log, "attached")
	def(&o.Size, "16MiB")
	if o.Keep == 0 {
		o.Keep = 8
	}
	if err := node.CheckConsoleLog(o.Log); err != nil {
		return c.wrong("console.log", "%v", err)
	}
	if o.Bytes, err = node.ParseSize(o.Size); err != nil {
		return c.wrong("console.size", "%v", err)
	}
	if o.Bytes < 64<<10 || o.Bytes > 1<<30 {
		return c.wrong("console.size", "%s: want 64KiB to 1GiB", o.Size)
	}
	if o.Keep < 1 || o.Keep > 1000 {
		return c.wrong("console.keep", "%d: want 1 to 1000", o.Keep)
	}
	return nil
}
