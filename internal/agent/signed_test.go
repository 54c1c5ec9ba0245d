package agent

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/sign"
)

// A deploy of what nobody has signed who is trusted ends before the disk is touched, whatever the store says.
func TestOnlySignedImagesAreWritten(t *testing.T) {
	quick(t)
	s := newFakeServer(t)
	id := capture1(t, s, makeDisk(t))
	parsed, err := chunk.ParseID(id)
	if err != nil {
		t.Fatal(err)
	}
	target := emptyDisk(t, 120)
	before := sum(t, target)
	good := store.Revision{Image: "golden", Rev: 1, ID: parsed}
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	with := func(r store.Revision, sigs ...store.Signature) store.Revision {
		r.Signatures = sigs
		return r
	}
	signed := func(key ed25519.PrivateKey, change func(*store.Revision)) store.Signature {
		r := good
		change(&r)
		return sign.Sign(key, r)
	}
	swapped := with(good, signed(testKey, func(r *store.Revision) { r.ID = chunk.Sum([]byte("evil")) }))
	swapped.ID = chunk.Sum([]byte("evil"))
	cut := sign.Sign(testKey, good)
	cut.Sig = cut.Sig[:50]
	for name, tc := range map[string]struct {
		r       store.Revision
		nokeys  bool
		message string
	}{
		"no signature":         {with(good), false, "golden@1 is not signed"},
		"unknown key":          {with(good, sign.Sign(other, good)), false, "a key that is not trusted"},
		"of another revision":  {with(good, signed(testKey, func(r *store.Revision) { r.Rev = 2 })), false, "is wrong"},
		"of another image":     {with(good, signed(testKey, func(r *store.Revision) { r.Image = "other" })), false, "is wrong"},
		"of another manifest":  {with(good, signed(testKey, func(r *store.Revision) { r.ID = chunk.Sum(nil) })), false, "is wrong"},
		"damaged":              {with(good, cut), false, "is wrong"},
		"manifest swapped":     {swapped, false, "the job was made for " + id},
		"says what it was for": {with(store.Revision{Image: "other", Rev: 1, ID: parsed}, signed(testKey, func(r *store.Revision) { r.Image = "other" })), false, "is wrong"},
		"no key in the task":   {with(good, sign.Sign(testKey, good)), true, "names no key"},
	} {
		task := deployTask(id)
		if tc.nokeys {
			task.Trust = nil
		}
		s.mu.Lock()
		s.tasks = []api.Task{task}
		s.storeHook = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/revisions") {
				return false
			}
			json.NewEncoder(w).Encode([]store.Revision{tc.r})
			return true
		}
		s.mu.Unlock()
		if _, err := Run(t.Context(), s.config(t, target)); err != nil {
			t.Fatal(err)
		}
		if d := s.last(t); d.OK || d.Touched || d.Error.Code != "untrusted" || d.Error.Hint == "" || !strings.Contains(d.Error.Message, tc.message) || !strings.Contains(d.Error.Message, "nothing was written") {
			t.Errorf("%s: %+v: %+v", name, d, d.Error)
		}
		if sum(t, target) != before {
			t.Fatalf("%s: the disk was written to", name)
		}
	}
}
