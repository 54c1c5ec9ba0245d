package server

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"mimeo/internal/manage/backup"
)

// makeBackup streams a backup. One that could not be finished breaks off: whoever gets it finds no list at its end.
func (s *Server) makeBackup(w http.ResponseWriter, r *http.Request) {
	dir, err := os.MkdirTemp(s.cfg.State, "tmp-backup-")
	if err != nil {
		writeError(w, err)
		return
	}
	defer os.RemoveAll(dir)
	copied := filepath.Join(dir, "mimeo.db")
	if err := s.db.Snapshot(r.Context(), copied); err != nil {
		writeError(w, err)
		return
	}
	host, _ := os.Hostname()
	head := backup.Head{Version: backup.Version, Created: time.Now().UTC().Truncate(time.Second), Mimeo: s.version, Host: host}
	w.Header().Set("Content-Type", "application/gzip")
	if err := backup.Write(r.Context(), w, backup.Source{Head: head, State: s.cfg.State, Config: s.cfg.File(), Database: copied}); err != nil {
		if !errors.Is(err, r.Context().Err()) {
			s.log.Error("a backup broke off", "err", err)
		}
		panic(http.ErrAbortHandler) // the client sees that it broke off
	}
}
