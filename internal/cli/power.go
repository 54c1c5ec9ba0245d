package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/client"
)

func powerCmd(t *terminal) *cobra.Command {
	var yes, legacy, uefi bool
	var do api.PowerDo
	c := &cobra.Command{
		Use:   "power RANGE ACTION",
		Short: "Switch nodes on and off, choose their next boot, read their sensors and event logs",
		Long: `Switch nodes on and off through their BMCs, and ask the BMCs for more:

  status                  on or off
  on, off                 off cuts the power at once
  soft                    ask the operating system to shut down, and wait for it
  cycle                   off and on; on where it was off
  reset                   restart, without shutting down
  identify on|off         the light by which a person finds the machine
  next-boot DEVICE        network, disk, setup (the firmware's menus), none (its
                          own order), uefi:DEVICE-PATH; without a device: show it
  sensors                 temperatures, fans, voltages, power
  log                     the BMC's event log; --clear empties it afterwards

A command is done when the BMC says that the new state is reached. What was sent
by Wake-on-LAN, or by a command that cannot tell the state, is shown as "sent".
Exit code 1: it failed on some node.`,
		Example: `  mimeo power n07 status
  mimeo power @rack3 cycle --yes
  mimeo power n07 next-boot network --uefi
  mimeo power @rack3 next-boot disk --persistent
  mimeo power n07 identify on
  mimeo power n[01-40] sensors --json
  mimeo power n07 log --clear`,
		Args: cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if legacy && uefi {
				return usagef("power: a boot is by --legacy or by --uefi, not both")
			}
			do.Range = args[0]
			do.Mode = map[bool]string{legacy: "legacy", uefi: "uefi"}[true]
			if err := powerAction(&do, args[1:]); err != nil {
				return err
			}
			return t.power(cmd, do, yes)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			switch {
			case len(args) == 1:
				return powerWords, cobra.ShellCompDirectiveNoFileComp
			case len(args) == 2 && args[1] == "identify":
				return []string{"on", "off"}, cobra.ShellCompDirectiveNoFileComp
			case len(args) == 2 && args[1] == "next-boot":
				return []string{"network", "disk", "setup", "none"}, cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
	}
	f := c.Flags()
	f.BoolVarP(&yes, "yes", "y", false, "do not ask, however many nodes")
	f.BoolVar(&do.Persistent, "persistent", false, "next-boot: for every boot from now on, not only for the next one")
	f.BoolVar(&legacy, "legacy", false, "next-boot: by BIOS; default: what the node's firmware is")
	f.BoolVar(&uefi, "uefi", false, "next-boot: by UEFI")
	f.BoolVar(&do.Clear, "clear", false, "log: empty it, once it was read")
	return c
}

// powerWords are the actions of the command line; pxe and disk are old words for next-boot.
var powerWords = []string{"on", "off", "soft", "cycle", "reset", "status", "identify", "next-boot", "sensors", "log", "pxe", "disk"}

// powerAction puts the words after the range into the request.
func powerAction(do *api.PowerDo, words []string) error {
	verb, rest := words[0], words[1:]
	if !slices.Contains(powerWords, verb) {
		return usagef("power: %q is none of %s", verb, strings.Join(powerWords[:10], ", "))
	}
	do.Action = verb
	switch verb {
	case "identify":
		if len(rest) != 1 || rest[0] != "on" && rest[0] != "off" {
			return usagef(`power: identify wants "on" or "off"`)
		}
		do.Action = "identify-" + rest[0]
	case "next-boot":
		if len(rest) > 0 {
			do.Device = rest[0]
		}
		if do.Device != "" && !slices.Contains([]string{"network", "disk", "setup", "none"}, do.Device) && !strings.HasPrefix(do.Device, "uefi:") {
			return usagef("power: boot device %q is none of network, disk, setup, none, uefi:DEVICE-PATH", do.Device)
		}
	case "pxe", "disk":
		do.Action, do.Device = "next-boot", map[string]string{"pxe": "network", "disk": "disk"}[verb]
		fallthrough
	default:
		if len(rest) > 0 {
			return usagef("power: %s takes no %q", verb, rest[0])
		}
	}
	if do.Device == "" && (do.Persistent || do.Mode != "") {
		return usagef("power: --persistent, --legacy and --uefi are for next-boot with a device")
	}
	if do.Clear && do.Action != "log" {
		return usagef("power: --clear is for log")
	}
	return nil
}

// power asks where that is needed, does it, and shows what came of it.
func (t *terminal) power(cmd *cobra.Command, do api.PowerDo, yes bool) error {
	if !yes && (slices.Contains([]string{"off", "soft", "cycle", "reset"}, do.Action) || do.Clear) {
		nodes, err := t.hit(cmd, do.Range)
		if err != nil {
			return err
		}
		do.Range = exactly(nodes)
		if len(nodes) > 1 {
			what := do.Action
			if do.Clear {
				what = "empty the event log"
			}
			if err := t.ask(fmt.Sprintf("power %s: %s (%s)?", what, count(len(nodes), "node"), fold(nodes))); err != nil {
				return err
			}
		}
	}
	c, err := connect()
	if err != nil {
		return err
	}
	results, err := t.followPower(cmd, c, do)
	if err != nil {
		return err
	}
	if t.json {
		if err := t.printJSON(results); err != nil {
			return err
		}
	} else {
		t.showPower(do, results)
	}
	return t.powerFailed(do, results)
}

// followPower streams the results, with a count on a terminal, and puts them into the order of the range.
func (t *terminal) followPower(cmd *cobra.Command, c *client.Client, do api.PowerDo) ([]api.PowerResult, error) {
	type indexed struct {
		api.PowerResult
		index int
	}
	var results []indexed
	live := isTTY(t.err) && !t.json
	finished, failed, total := false, 0, 0
	var drawn time.Time
	err := c.Stream(cmd.Context(), http.MethodPost, "/v1/power?stream=1", do, func(data []byte) error {
		var p api.PowerProgress
		if err := json.Unmarshal(data, &p); err != nil {
			return fmt.Errorf("read the server's stream: %w", err)
		}
		finished, total = p.Finished, p.Total
		if p.Result != nil {
			results = append(results, indexed{*p.Result, p.Index})
			if p.Result.Error != nil {
				failed++
			}
		}
		if live && p.Total > 1 && (time.Since(drawn) > 100*time.Millisecond || finished) {
			drawn = time.Now()
			line := fmt.Sprintf("power %s: %d of %s", do.Action, p.Done, count(p.Total, "node"))
			if failed > 0 {
				line += fmt.Sprintf(", %d failed", failed)
			}
			fmt.Fprintf(t.err, "\r\x1b[K%s", line)
		}
		return nil
	})
	if live && total > 1 {
		fmt.Fprint(t.err, "\r\x1b[K")
	}
	if err == nil && !finished {
		err = &api.Error{Code: "unreachable", Message: fmt.Sprintf("the server broke off after %d of %s: what became of the others is not known", len(results), count(total, "node")), Hint: fmt.Sprintf(`"mimeo power %s status" tells`, do.Range)}
	}
	slices.SortFunc(results, func(a, b indexed) int { return a.index - b.index })
	out := make([]api.PowerResult, len(results))
	for i, r := range results {
		out[i] = r.PowerResult
	}
	return out, err
}

// showPower prints the results of the nodes on which it worked.
func (t *terminal) showPower(do api.PowerDo, results []api.PowerResult) {
	var rows [][]string
	switch do.Action {
	case "sensors":
		rows = append(rows, []string{"NODE", "SENSOR", "VALUE", "HEALTH"})
		for _, r := range results {
			for _, s := range r.Sensors {
				value := s.Text
				if s.Value != nil {
					value = strings.TrimSpace(strconv.FormatFloat(*s.Value, 'f', -1, 64) + " " + s.Unit)
				}
				rows = append(rows, []string{string(r.Node), s.Name, dash(value), dash(s.Health)})
			}
		}
	case "log":
		rows = append(rows, []string{"NODE", "ENTRY", "TIME", "SEVERITY", "WHAT"})
		for _, r := range results {
			for _, e := range r.Log {
				at := "-"
				if e.Time != nil {
					at = moment(*e.Time)
				}
				rows = append(rows, []string{string(r.Node), e.ID, at, dash(e.Severity), e.Text})
			}
			if r.Cleared {
				fmt.Fprintf(t.err, "%s: the event log is emptied\n", r.Node)
			}
		}
	case "next-boot":
		rows = append(rows, []string{"NODE", "NEXT BOOT"})
		for _, r := range results {
			if r.Error == nil {
				rows = append(rows, []string{string(r.Node), r.Note})
			}
		}
	case "identify-on", "identify-off":
		rows = append(rows, []string{"NODE", "IDENTIFY"})
		for _, r := range results {
			if r.Error == nil {
				rows = append(rows, []string{string(r.Node), strings.TrimPrefix(do.Action, "identify-")})
			}
		}
	default:
		rows = append(rows, []string{"NODE", "POWER"})
		for _, r := range results {
			switch {
			case r.Sent:
				rows = append(rows, []string{string(r.Node), "sent", r.Note})
			case r.Error == nil:
				rows = append(rows, []string{string(r.Node), r.State})
			}
		}
	}
	if len(rows) > 1 {
		table(t.out, rows)
	}
}

// powerFailed names the nodes on which it failed, each hint once, and is the command's error.
func (t *terminal) powerFailed(do api.PowerDo, results []api.PowerResult) error {
	var bad []api.PowerResult
	for _, r := range results {
		if r.Error != nil {
			bad = append(bad, r)
		}
	}
	if len(bad) == 0 {
		return nil
	}
	what := "power " + strings.Replace(do.Action, "identify-", "identify ", 1)
	if len(results) == 1 {
		return &api.Error{Code: "failed", Message: what + ": " + bad[0].Error.Message, Hint: bad[0].Error.Hint}
	}
	hints := map[string]bool{}
	for _, r := range bad {
		fmt.Fprintf(t.err, "%s\n", r.Error.Message)
		if h := r.Error.Hint; h != "" && !hints[h] {
			hints[h] = true
			fmt.Fprintf(t.err, "  hint: %s\n", h)
		}
	}
	return &api.Error{Code: "failed", Message: fmt.Sprintf("%s failed on %d of %s", what, len(bad), count(len(results), "node"))}
}
