package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

func scrape(t *testing.T, m *Metrics) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	return w.Code, w.Body.String()
}

func sample() *Metrics {
	begun := time.Now().Add(-90 * time.Second)
	m := New("1.2", time.Unix(1700000000, 0), func(context.Context) (Now, error) {
		return Now{Nodes: map[node.BootState]int{"disk": 3, "shell": 1}, StoreBytes: 5, FreeBytes: 7, RequestBytes: 11, Waiting: 13, Interfaces: map[string]int64{"eth1": 1},
			Jobs: []api.Job{{Kind: api.TaskCapture, Phase: api.PhaseCapturing, LastProgress: &begun}, {Kind: api.TaskDeploy, Phase: api.PhaseQueued}}}, nil
	})
	m.Event("loader")
	m.Event("loader")
	end := begun.Add(75 * time.Second)
	m.Ended(api.Job{Kind: api.TaskDeploy, Phase: api.PhaseDone, Started: &begun, Ended: &end, Counts: map[string]int64{"written": 4096, "whatever": 1}})
	m.Ended(api.Job{Kind: api.TaskDeploy, Phase: api.PhaseFailed, Started: &begun, Ended: &end})
	return m
}

func TestNumbers(t *testing.T) {
	code, text := scrape(t, sample())
	for _, want := range []string{`mimeo_info{version="1.2"} 1`, `mimeo_nodes{boot="disk"} 3`, `mimeo_nodes{boot="shell"} 1`, `mimeo_jobs{kind="capture",phase="capturing"} 1`,
		`mimeo_jobs{kind="deploy",phase="queued"} 1`, `mimeo_jobs_ended_total{end="done",kind="deploy"} 1`, `mimeo_jobs_ended_total{end="failed",kind="deploy"} 1`,
		`mimeo_jobs_ended_total{end="lost",kind="wipe"} 0`, `mimeo_job_bytes_total{kind="deploy",what="written"} 4096`, `mimeo_node_events_total{kind="loader"} 2`,
		`mimeo_job_duration_seconds_bucket{kind="deploy",le="60"} 0`, `mimeo_job_duration_seconds_bucket{kind="deploy",le="120"} 1`,
		`mimeo_store_bytes 5`, `mimeo_store_free_bytes 7`, `mimeo_store_request_bytes 11`, `mimeo_store_requests_waiting 13`, `mimeo_interface_up{interface="eth1"} 1`, `mimeo_start_time_seconds 1.7e+09`, "process_open_fds", "go_goroutines"} {
		if code != 200 || !strings.Contains(text, want) {
			t.Errorf("status %d, no %s", code, want)
		}
	}
	if strings.Contains(text, "whatever") {
		t.Error("an agent makes labels")
	}
	if m := regexp.MustCompile(`mimeo_job_silence_seconds (\d+)`).FindStringSubmatch(text); m == nil || m[1] != "90" {
		t.Errorf("silence: %q", m)
	}
	// Half an answer would look like a quiet night.
	broken := New("1", time.Now(), func(context.Context) (Now, error) { return Now{}, errors.New("the inventory is gone") })
	if code, text := scrape(t, broken); code != 500 || !strings.Contains(text, "the inventory is gone") {
		t.Errorf("status %d: %s", code, text)
	}
}

// TestNamesAreThere holds page, alerts and dashboard to the numbers that there are.
func TestNamesAreThere(t *testing.T) {
	_, text := scrape(t, sample())
	have := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(mimeo_\w+)`).FindAllString(text, -1) {
		have[m] = true
		have[strings.TrimSuffix(m, "_bucket")] = true
	}
	described := map[string]bool{}
	for _, file := range []string{"docs/metrics.md", "build/monitoring/rules.yml", "build/monitoring/dashboard.json"} {
		b, err := os.ReadFile("../../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`mimeo_\w+`).FindAllString(string(b), -1) {
			if !have[name] {
				t.Errorf("%s has %s, which is not there", file, name)
			}
			if file == "docs/metrics.md" {
				described[name] = true
			}
		}
		switch {
		case strings.HasSuffix(file, ".json"):
			if !json.Valid(b) {
				t.Errorf("%s is no JSON", file)
			}
		case strings.HasSuffix(file, ".yml"):
			var rules map[string]any
			if err := yaml.Unmarshal(b, &rules); err != nil || rules["groups"] == nil {
				t.Errorf("%s: %v", file, err)
			}
			page, _ := os.ReadFile("../../../docs/operations.md")
			for _, m := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(string(b), -1) {
				if !regexp.MustCompile("(?m)^### (Mimeo\\w+, )*" + m[1] + "(, |$)").Match(page) {
					t.Errorf("docs/operations.md does not say what %s means", m[1])
				}
			}
		}
	}
	for name := range have {
		name = regexp.MustCompile(`_(sum|count|bucket)$`).ReplaceAllString(name, "")
		if !described[name] && have[name] {
			t.Errorf("docs/metrics.md does not have %s", name)
		}
	}
}

// TestRules has Prometheus' own tool read alerts and dashboard, and let the alerts fire.
func TestRules(t *testing.T) {
	monitoring, err := filepath.Abs("../../../build/monitoring")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(monitoring, "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	// It reads no dashboards, but their expressions where they stand in rules.
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	for i, m := range regexp.MustCompile(`"expr": *("(?:[^"\\]|\\.)*")`).FindAllSubmatch(b, -1) {
		var expr string
		if err := json.Unmarshal(m[1], &expr); err != nil {
			t.Fatal(err)
		}
		rules = append(rules, rule{fmt.Sprintf("dashboard:%d", i), strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h").Replace(expr)})
	}
	text, err := json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil || len(rules) == 0 {
		t.Fatal(len(rules), err)
	}
	dashboard := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(dashboard, text, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"check", "rules", filepath.Join(monitoring, "rules.yml"), dashboard}, {"test", "rules", "testdata/rules_test.yml"}} {
		if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}
