package localcmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/store/keys"
	"mimeo/internal/imaging/store/s3"
)

// boundMemory makes the collector run sooner than usual. The buffers of a capture or deploy take some 80 MiB and live as
// long as it does, so that twice as much would be in use before garbage is collected; a node of 512 MiB runs this from
// RAM, with kernel and system beside it. There are few pointers to follow: it costs nothing to speak of.
func boundMemory() {
	debug.SetGCPercent(30)
	debug.SetMemoryLimit(160 << 20)
}

// keyEnv names the file that --store-key names otherwise.
const keyEnv = "MIMEO_STORE_KEY"

// storeAt is where a store is, and what opens it.
type storeAt struct {
	place string // dir:PATH, s3://BUCKET/PREFIX or https://ADDRESS:PORT
	key   string // file; empty: the store is not encrypted
}

// flags adds --store and --store-key.
func (at *storeAt) flags(f *pflag.FlagSet, usage string) {
	f.StringVar(&at.place, "store", "", usage)
	f.StringVar(&at.key, "store-key", os.Getenv(keyEnv), "`FILE` with the key or passphrase of an encrypted store (else what "+keyEnv+" names)")
	f.Lookup("store-key").DefValue = ""
}

// secret reads the file with the key.
func (at storeAt) secret() (keys.Secret, error) {
	if at.key == "" {
		return keys.Secret{}, nil
	}
	s, err := keys.Read(at.key)
	if errors.Is(err, os.ErrNotExist) {
		return s, &api.Error{Code: "not_found", Message: "key of the store: " + err.Error(), Hint: "look at the path; \"mimeo-agent store key new FILE\" makes a key for a new store"}
	} else if err != nil {
		return s, &api.Error{Code: "failed", Message: "key of the store: " + err.Error(), Hint: "take the file from where you keep a copy of it"}
	}
	return s, nil
}

// openStore opens a store by its place, dir:PATH or s3://BUCKET/PREFIX, for writing (it is made where there is none) or for
// reading.
func openStore(ctx context.Context, at storeAt, write bool) (*dir.Store, error) {
	place := at.place
	if place == "" {
		return nil, badUsage("--store dir:PATH is missing: where are the images kept?")
	}
	key, err := at.secret()
	if err != nil {
		return nil, err
	}
	o := dir.Options{Create: write, ReadOnly: !write, Key: key}
	if strings.HasPrefix(place, "s3:") {
		return openS3(ctx, place, o)
	}
	path, ok := strings.CutPrefix(place, "dir:")
	if !ok || path == "" {
		e := badUsage("--store %s: a store in a folder is named dir:PATH, one in S3 s3://BUCKET/PREFIX", place)
		if !ok {
			e.Hint = "say --store dir:" + place
		}
		return nil, e
	}
	st, err := dir.Open(path, o)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, &api.Error{Code: "not_found", Message: err.Error(), Hint: "look at the path after dir:"}
	case errors.Is(err, store.ErrLocked):
		return nil, &api.Error{Code: "refused", Message: err.Error(), Hint: "wait until the other program is done; the store of a running mimeod is reached through the server only"}
	}
	return st, keyError(err)
}

// keyError says what to do where key and store do not fit.
func keyError(err error) error {
	if hint := dir.KeyHint(err); hint != "" {
		return &api.Error{Code: "refused", Message: err.Error(), Hint: hint}
	}
	return err
}

// openS3 opens a store in a bucket. Where it is and how to get in is said as AWS's own tools are told.
func openS3(ctx context.Context, place string, o dir.Options) (*dir.Store, error) {
	c, err := s3.Parse(place, os.Getenv)
	if err != nil {
		return nil, badUsage("--store %v", err)
	}
	st, err := s3.Open(ctx, c, o)
	if err == nil {
		return st, nil
	}
	if kerr := keyError(err); kerr != err {
		return nil, kerr
	}
	e := &api.Error{Code: "failed", Message: err.Error(), Hint: s3.Hint(err)}
	switch {
	case errors.Is(err, store.ErrNotFound):
		e.Code, e.Hint = "not_found", "look at the bucket and the prefix; a capture makes a store"
	case errors.Is(err, store.ErrLocked), errors.Is(err, s3.ErrDenied):
		e.Code = "refused"
	}
	return nil, e
}

func badUsage(format string, args ...any) *api.Error {
	return &api.Error{Code: "bad_usage", Message: fmt.Sprintf(format, args...)}
}

// exactly is cobra.ExactArgs with an error of ours.
func exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			e := badUsage("%s takes %d arguments, not %d", cmd.CommandPath(), n, len(args))
			e.Hint = "usage: " + cmd.UseLine()
			return e
		}
		return nil
	}
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// list joins words; of many it names the last ones.
func list(words []string) string {
	const most = 8
	if over := len(words) - most; over > 0 {
		return "... " + strings.Join(words[over:], ", ")
	}
	return strings.Join(words, ", ")
}
