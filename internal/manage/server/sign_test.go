package server

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store/sign"
	"mimeo/internal/manage/config"
)

// record changes what lies in the store of a revision, as somebody does who can write there.
func (r *rig) record(image, file string, change func(map[string]any)) {
	r.t.Helper()
	name := filepath.Join(r.cfg.State, "store/images", image, file)
	var rec map[string]any
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, &rec)
	}
	if err == nil {
		change(rec)
		b, _ = json.Marshal(rec)
		err = os.WriteFile(name, b, 0o644)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func unsigned(rec map[string]any) { delete(rec, "signatures") }

func piece(salt uint64) func(int) uint64 {
	return func(n int) uint64 { return uint64(n) + 1000*salt }
}

func TestSignedRevisions(t *testing.T) {
	r := start(t)
	first := r.published("web", piece(1))
	var keys []api.TrustedKey
	r.must("GET", "/v1/keys", nil, &keys)
	if len(keys) != 1 || !keys[0].Own || keys[0].Key != sign.Text(r.key.Public().(ed25519.PublicKey)) {
		t.Fatalf("%+v", keys)
	}
	show := func() (d api.ImageDetail) {
		t.Helper()
		r.must("GET", "/v1/images/web/1", nil, &d)
		return d
	}
	if d := show(); !d.Trusted || len(d.Signatures) != 1 || d.Signatures[0] != (api.Signature{Key: keys[0].Key, Name: ownName, State: "trusted"}) {
		t.Errorf("%+v", d.Revision)
	}
	job := api.JobNew{Kind: api.TaskDeploy, Range: "n1", Image: "web", Key: "k"}
	var p api.Preflight
	r.must("POST", "/v1/jobs/preflight", job, &p)

	// What nobody signed who is trusted is refused before a job is made.
	refused := func(code, message, hint string) {
		t.Helper()
		for _, path := range []string{"/v1/jobs/preflight", "/v1/jobs"} {
			if e := r.fails("POST", path, job, code, message); !strings.Contains(e.Hint, hint) {
				t.Errorf("%s", e.Hint)
			}
		}
		if show().Trusted {
			t.Error("it is shown as trusted")
		}
	}
	var good any
	r.record("web", "1.json", func(rec map[string]any) { good = rec["signatures"]; unsigned(rec) })
	refused("unsigned", "web@1 is not signed", "mimeo image sign web@1")
	r.record("web", "1.json", func(rec map[string]any) {
		rec["signatures"] = []any{map[string]any{"key": sign.Text(ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)), "sig": "%"}}
	})
	refused("untrusted", "is wrong", "images/web/1.json")
	stranger := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, 32))
	theirs := sign.Sign(stranger, first)
	r.record("web", "1.json", func(rec map[string]any) { rec["signatures"] = []any{theirs} })
	refused("untrusted", theirs.Key, `"trust"`)
	if d := show(); len(d.Signatures) != 1 || d.Signatures[0].State != "unknown" {
		t.Errorf("%+v", d.Signatures)
	}

	// An admin vouches for it. Nobody else may, and what is not whole cannot be signed.
	var rev api.Revision
	r.must("PUT", "/v1/images/web/1/signature", nil, &rev)
	if !rev.Trusted || len(rev.Signatures) != 2 || rev.Signatures[0].State != "trusted" || rev.Signatures[1].Key != theirs.Key {
		t.Errorf("%+v", rev)
	}
	r.must("POST", "/v1/jobs/preflight", job, &p)
	if _, e := r.call(r.viewer("operator"), "PUT", "/v1/images/web/1/signature", nil, nil); e == nil || e.Code != "forbidden" {
		t.Errorf("%+v", e)
	}
	r.fails("PUT", "/v1/images/web/9/signature", nil, "not_found", "web@9")

	// A manifest that another revision has, under this one's signature.
	second := r.published("web", piece(2))
	r.record("web", "1.json", func(rec map[string]any) { rec["id"] = second.ID.String(); rec["signatures"] = good })
	job.Image = "web@1"
	refused("untrusted", "is wrong", "images/web/1.json")
	r.record("web", "1.json", func(rec map[string]any) { rec["id"] = chunk.Sum([]byte("none")).String() })
	if err := r.admin.Do(t.Context(), "PUT", "/v1/images/web/1/signature", nil, nil); err == nil {
		t.Error("what has no manifest was signed")
	}

	// The task has the keys.
	job.Image = "web@2"
	var jobs []api.Job
	r.must("POST", "/v1/jobs", job, &jobs)
	if task := r.hello(r.boot(1), "b"); len(task.Trust) != 1 || task.Trust[0] != keys[0] || task.Rev != 2 || task.Manifest != second.ID.String() {
		t.Errorf("%+v", task)
	}
}

// A key of the configuration counts as our own does.
func TestTrustedKeys(t *testing.T) {
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, 32))
	own := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{6}, 32))
	keys := trusted(own, []config.Trust{{Name: "site-b", Key: sign.Text(other.Public().(ed25519.PublicKey))}})
	if len(keys) != 2 || keys[0].Name != ownName || keys[1].Name != "site-b" || !keys[1].Public.Equal(other.Public()) {
		t.Errorf("%+v", keys)
	}
}

// The first start of a mimeod that signs has what was there signed, once. A new state folder vouches for nothing.
func TestRevisionsFromBefore(t *testing.T) {
	r := start(t)
	r.published("web", piece(1))
	r.published("web", piece(2))
	stranger := sign.Sign(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, 32)), r.published("web", piece(3)))
	r.published("broken", piece(4))
	state := r.cfg.State
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	strip := func() {
		for _, f := range []string{"1.json", "2.json"} {
			r.record("web", f, unsigned)
		}
		r.record("web", "3.json", func(rec map[string]any) { rec["signatures"] = []any{stranger} })
		r.record("broken", "1.json", func(rec map[string]any) { unsigned(rec); rec["id"] = chunk.Sum(nil).String() })
	}
	look := func(r *rig, want ...bool) {
		t.Helper()
		var im api.Image
		r.must("GET", "/v1/images/web", nil, &im)
		for i, rev := range im.Revisions {
			if rev.Trusted != want[i] {
				t.Errorf("%s@%d: trusted %v", rev.Image, rev.Rev, rev.Trusted)
			}
		}
	}
	strip()
	again := startIn(t, state)
	look(again, false, false, false) // the note is there: nothing is signed by itself
	if err := again.stop(); err != nil {
		t.Fatal(err)
	}
	note := filepath.Join(state, "tls/signs-revisions")
	if err := os.Remove(note); err != nil {
		t.Fatal(err)
	}
	upgraded := startIn(t, state)
	look(upgraded, true, true, false)
	if err := upgraded.stop(); err != nil {
		t.Fatal(err)
	}
	strip()
	fresh := t.TempDir()
	if err := os.Rename(filepath.Join(state, "store"), filepath.Join(fresh, "store")); err != nil {
		t.Fatal(err)
	}
	look(startIn(t, fresh), false, false, false)
}
