package localcmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/dir"
)

// boundMemory makes the collector run sooner than usual. The buffers of a capture or deploy take some 80 MiB and live as
// long as it does, so that twice as much would be in use before garbage is collected; a node of 512 MiB runs this from
// RAM, with kernel and system beside it. There are few pointers to follow: it costs nothing to speak of.
func boundMemory() {
	debug.SetGCPercent(30)
	debug.SetMemoryLimit(160 << 20)
}

// openStore opens a store by its place, dir:PATH, for writing (it is made where there is none) or for reading.
func openStore(place string, write bool) (*dir.Store, error) {
	if place == "" {
		return nil, badUsage("--store dir:PATH is missing: where are the images kept?")
	}
	path, ok := strings.CutPrefix(place, "dir:")
	if !ok || path == "" {
		e := badUsage("--store %s: a store in a folder is named dir:PATH", place)
		if !ok {
			e.Hint = "say --store dir:" + place
		}
		return nil, e
	}
	st, err := dir.Open(path, dir.Options{Create: write, ReadOnly: !write})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, &api.Error{Code: "not_found", Message: err.Error(), Hint: "look at the path after dir:"}
	case errors.Is(err, store.ErrLocked):
		return nil, &api.Error{Code: "refused", Message: err.Error(), Hint: "wait until the other program is done; the store of a running mimeod is reached through the server only"}
	}
	return st, err
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
