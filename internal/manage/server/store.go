package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/cache"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/store/keys"
	"mimeo/internal/imaging/store/s3"
	"mimeo/internal/imaging/store/sign"
)

// lockWait is how long a start waits for the lock of a store in S3: systemd gives it 90 s, and tries again.
const lockWait = time.Minute

// openStore opens the store that the configuration names, and makes it where there is none.
func (s *Server) openStore(ctx context.Context) (*dir.Store, error) {
	o := dir.Options{Create: true, Sign: func(r store.Revision) store.Signature { return sign.Sign(s.key, r) }}
	var err error
	if o.Key, err = storeKey(s.cfg.StoreKey); err != nil {
		return nil, fmt.Errorf("store_key: %w", err)
	}
	bucket, inS3, err := s.cfg.Bucket(os.Getenv)
	if err != nil {
		return nil, err
	}
	if !inS3 {
		path := strings.TrimPrefix(s.cfg.Store, "dir:")
		o.Reserve = reserve(s.cfg.State, path)
		st, err := dir.Open(path, o)
		if hint := dir.KeyHint(err); hint != "" {
			return nil, &api.Error{Code: "internal", Message: err.Error(), Hint: hint}
		} else if err != nil {
			return nil, fmt.Errorf("open store %s: %w", path, err)
		}
		return st, nil
	}
	for end := time.Now().Add(lockWait); ; {
		st, err := s3.Open(ctx, bucket, o)
		if err == nil {
			return st, nil
		}
		if errors.Is(err, store.ErrLocked) && time.Now().Before(end) {
			s.log.Warn("the store is locked: waiting", "err", err)
			select {
			case <-time.After(5 * time.Second):
				continue
			case <-ctx.Done():
			}
		}
		return nil, &api.Error{Code: "internal", Message: err.Error(), Hint: cmp.Or(dir.KeyHint(err), s3.Hint(err))}
	}
}

// storeKey reads the file with the key of a store; without a name there is none.
func storeKey(path string) (keys.Secret, error) {
	if path == "" {
		return keys.Secret{}, nil
	}
	return keys.Read(path)
}

// nearStore returns the store as nodes read it: with a cache before it, where the configuration has one.
func (s *Server) nearStore() (store.Writer, error) {
	size := s.cfg.S3.CacheBytes
	if size == 0 {
		return s.store, nil
	}
	seal, err := s.store.SealCopies()
	if err != nil {
		return nil, err
	}
	if s.cache, err = cache.Open(s.store, filepath.Join(s.cfg.State, "s3", "cache"), size, seal); err != nil {
		return nil, err
	}
	return s.cache, nil
}

// storeArgs says to mimeo-agent where the store lies: what to put after --store, and what to add to its environment.
func (s *Server) storeArgs() (place string, env []string) {
	if s.cfg.StoreKey != "" {
		env = append(env, "MIMEO_STORE_KEY="+s.cfg.StoreKey)
	}
	bucket, inS3, err := s.cfg.Bucket(os.Getenv)
	if err != nil || !inS3 { // the former was refused at the start
		return s.cfg.Store, env
	}
	place, more := bucket.Environ()
	return place, append(append(env, more...), "XDG_CACHE_HOME="+filepath.Join(s.cfg.State, "s3", "readers"))
}
