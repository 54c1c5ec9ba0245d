package server

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"mimeo/internal/cluster/api"
)

func page(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../../../docs/formats/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The page for people has each path that the server has, and none besides.
func TestPathsAreDescribed(t *testing.T) {
	src, err := os.ReadFile("admin.go")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{"POST " + api.PathHello: true, "POST " + api.PathProgress: true, "POST " + api.PathDone: true, "POST " + api.PathTrouble: true}
	for _, m := range regexp.MustCompile(`"([A-Z]+ /v1/[^"]*)"`).FindAllStringSubmatch(string(src), -1) {
		have[m[1]] = true
	}
	if len(have) < 25 {
		t.Fatalf("only %d paths in admin.go", len(have))
	}
	described := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z]+ /v1/[^`?]*)").FindAllStringSubmatch(page(t, "api.md"), -1) {
		described[m[1]] = true
	}
	for p := range have {
		if !described[p] {
			t.Errorf("docs/formats/api.md has no %s", p)
		}
	}
	for p := range described {
		if !have[p] {
			t.Errorf("docs/formats/api.md has %s, the server has not", p)
		}
	}
}

// The page for people has each field of each message.
func TestFieldsAreDescribed(t *testing.T) {
	text := page(t, "api.md")
	seen := map[reflect.Type]bool{}
	var look func(typ reflect.Type)
	look = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			look(typ.Elem())
		case reflect.Struct:
			if seen[typ] || !strings.HasPrefix(typ.PkgPath(), "mimeo/") {
				return
			}
			seen[typ] = true
			for i := range typ.NumField() {
				f := typ.Field(i)
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				if name != "" && !strings.Contains(text, "`"+name+"`") && !strings.Contains(text, `"`+name+`"`) {
					t.Errorf("docs/formats/api.md has no `%s` of %s", name, typ.Name())
				}
				look(f.Type)
			}
		}
	}
	for _, m := range []any{api.ServerStatus{}, api.DHCPStatus{}, api.DHCPSnippet{}, api.NodeStatus{}, api.NodeAdd{}, api.NodeSet{}, api.InventoryPut{}, api.GroupChange{}, api.Group{}, api.Attribute{}, api.Plan{}, api.Affected{}, api.BootSet{}, api.BootExplain{}, api.PowerDo{}, api.PowerResult{}, api.PowerProgress{}, api.Sensor{}, api.LogEntry{}, api.ConsoleHello{}, api.ConsoleNote{}, api.JobNew{}, api.Job{}, api.Watch{}, api.Event{},
		api.Discovered{}, api.DiscoveredAccept{}, api.SignedCertificate{}, api.CertificateEntry{}, api.JobRetry{}, api.Preflight{}, api.WatchJobs{}, api.Batch{}, api.ScheduleNew{}, api.Schedule{}, api.ScheduleRun{}, api.SchedulePause{},
		api.Image{}, api.Revision{}, api.TrustedKey{}, api.ImageDetail{}, api.VerifyProgress{}, api.BootTestNew{}, api.BootTest{}, api.BootTestProgress{}, api.StoreProgress{}, api.StoreCheck{}, api.StoreUsage{}, api.StoreGC{}, api.StoreRepair{}, api.RetentionRule{}, api.Retention{}, api.Stateless{}, api.StatelessNew{}, api.StatelessProgress{}, api.Hello{}, api.Task{}, api.Progress{}, api.ProgressReply{}, api.Done{}, api.DoneReply{}, api.Trouble{}, api.Error{}} {
		look(reflect.TypeOf(m))
	}
}
