// Command mimeo is the command line of Mimeo.
package main

import (
	"os"

	"mimeo/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
