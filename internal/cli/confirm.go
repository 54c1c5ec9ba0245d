package cli

import (
	"fmt"
	"strings"

	"mimeo/internal/cluster/api"
)

// confirm says how many nodes a command hit and what becomes of them, and wants a yes from a person: "40 nodes
// (n[01-40]), 38 disks will be overwritten; go on? [y/N]". With yes, or where it is one node, it does not ask. A
// command that has it takes --yes and says so in its help.
func (t *terminal) confirm(yes bool, nodes []api.NodeStatus, what string) error {
	if yes || len(nodes) < 2 {
		return nil
	}
	return t.ask(fmt.Sprintf("%s (%s), %s; go on?", count(len(nodes), "node"), fold(nodes), what))
}

// ask wants a yes from a person. Without a terminal it fails and names the flag that says yes.
func (t *terminal) ask(question string) error {
	if !isTTY(t.in) {
		return &api.Error{Code: "refused", Message: question + ": not answered, as there is no terminal to ask on", Hint: "say --yes if that is what you want"}
	}
	fmt.Fprintf(t.err, "%s [y/N] ", question)
	var answer string
	fmt.Fscanln(t.in, &answer)
	if a := strings.ToLower(answer); a != "y" && a != "yes" {
		return &api.Error{Code: "refused", Message: "not confirmed; nothing was changed"}
	}
	return nil
}
