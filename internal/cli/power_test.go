package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"mimeo/internal/cluster/api"
)

// power is the fake server's answer to a power command: n01 works, n02 does not, and n02 is done first.
func power(w http.ResponseWriter, r *http.Request) {
	var do api.PowerDo
	json.NewDecoder(r.Body).Decode(&do)
	send := func(p api.PowerProgress) {
		b, _ := json.Marshal(p)
		fmt.Fprintf(w, "data: %s\n\n", b)
	}
	if do.Range == "n09" { // it breaks off
		send(api.PowerProgress{Total: 1})
		return
	}
	good := api.PowerResult{Node: "n01", State: "on"}
	value := 42.5
	when := time.Date(2026, 3, 4, 5, 6, 7, 0, time.Local)
	switch {
	case do.Action == "sensors":
		good.Sensors = []api.Sensor{{Name: "CPU", Kind: "temperature", Value: &value, Unit: "°C", Health: "ok"}, {Name: "Fan", Kind: "fan"}}
	case do.Action == "log":
		good.Log, good.Cleared = []api.LogEntry{{ID: "1", Time: &when, Severity: "critical", Text: "fan stands still"}}, do.Clear
	case do.Action == "next-boot":
		good.Note = fmt.Sprintf("%s persistent=%v mode=%s", do.Device, do.Persistent, do.Mode)
	case do.Range == "n07":
		good.State, good.Sent, good.Note = "unknown", true, "a magic packet was sent on eth1"
	}
	if do.Range == "n[01-02]" {
		send(api.PowerProgress{Done: 1, Total: 2, Index: 1, Result: &api.PowerResult{Node: "n02", Error: &api.Error{Message: `n02: BMC 10.0.9.2 refused user "ops"`, Hint: "set the password"}}})
	}
	send(api.PowerProgress{Done: 2, Total: 2, Index: 0, Result: &good})
	send(api.PowerProgress{Done: 2, Total: 2, Finished: true})
}
