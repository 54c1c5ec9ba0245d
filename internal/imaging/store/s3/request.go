package s3

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"mimeo/internal/imaging/store"
)

// maxTries is how often a request is sent: with the waits between, some 30 seconds of a service that is away or tells to
// go slower.
const maxTries = 7

// slowest is the pace, in bytes per second, below which a request is given up.
const slowest = 256 << 10

// sumKey is the metadata that has the SHA-256 hash of an object's bytes.
const sumKey = "Mimeo-Sha256"

// Errors that people can do something about.
var (
	ErrNoBucket     = errors.New("the bucket does not exist")
	ErrDenied       = errors.New("the service refuses the access key, or what it may do")
	ErrNoConditions = errors.New("the service does not know conditional PUT (If-None-Match and If-Match)")
	ErrLeaseLost    = errors.New("another program has taken the store's lock, as this one could not renew it in time")
)

// Hint says what to do about an error of this package, and nothing where it does not know.
func Hint(err error) string {
	switch {
	case errors.Is(err, ErrNoCredentials):
		return "name a key and its secret in the configuration or a credentials file, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
	case errors.Is(err, ErrNoBucket):
		return "make the bucket first, and look at the endpoint and the region"
	case errors.Is(err, ErrDenied):
		return "look at the access key and its secret; it needs to list the bucket, and to get, put and delete objects in it; and at this machine's clock"
	case errors.Is(err, ErrNoConditions):
		return "use a service that knows them, as AWS, MinIO, Ceph and versitygw do in their present versions: without them two programs could write at once"
	case errors.Is(err, ErrLeaseLost):
		return "start the program again; if another one runs, end that"
	case errors.Is(err, store.ErrUnreachable):
		return "look at the endpoint, the network and the proxy"
	case errors.Is(err, store.ErrLocked):
		return "end the other program; if it is gone already, its lock ends two minutes after its last sign of life"
	}
	return ""
}

// code returns S3's word for an error and the HTTP status, both zero where the service did not say it.
func code(err error) (string, int) {
	var e minio.ErrorResponse
	if errors.As(err, &e) {
		return e.Code, e.StatusCode
	}
	return "", 0
}

func isMissing(err error) bool {
	c, status := code(err)
	return c == "NoSuchKey" || c != "NoSuchBucket" && status == http.StatusNotFound
}

// isTaken tells whether a condition of a PUT did not hold.
func isTaken(err error) bool {
	c, status := code(err)
	return c == "PreconditionFailed" || status == http.StatusPreconditionFailed
}

// lasting tells whether another try would end the same.
func lasting(err error) bool {
	var cert *x509.CertificateInvalidError
	var host x509.HostnameError
	var ca x509.UnknownAuthorityError
	if errors.As(err, &cert) || errors.As(err, &host) || errors.As(err, &ca) || strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return true
	}
	c, status := code(err)
	switch {
	case c == "" || status == 0:
		return false // no answer, or not all of it
	case status >= 500 && status != http.StatusNotImplemented && status != http.StatusInsufficientStorage:
		return c == "XMinioStorageFull"
	}
	switch c {
	case "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded", "ConditionalRequestConflict", "OperationAborted", "ExpiredToken", "XAmzContentSHA256Mismatch", "BadDigest", "IncompleteBody":
		return false
	}
	return status != http.StatusRequestTimeout && status != http.StatusTooManyRequests
}

// explain turns an error of the service into one of ours.
func (f *files) explain(op, name string, err error) error {
	c, status := code(err)
	var ne net.Error
	var kind error
	switch {
	case err == nil:
		return nil
	case isMissing(err):
		return &fs.PathError{Op: op, Path: f.place(name), Err: fs.ErrNotExist}
	case isTaken(err):
		return &fs.PathError{Op: op, Path: f.place(name), Err: fs.ErrExist}
	case c == "NoSuchBucket":
		kind = ErrNoBucket
	case c == "QuotaExceeded", c == "XMinioStorageFull", c == "XMinioAdminBucketQuotaExceeded", status == http.StatusInsufficientStorage:
		kind = store.ErrFull
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		kind = ErrDenied
	case errors.As(err, &ne), errors.Is(err, context.DeadlineExceeded), status >= 500:
		kind = store.ErrUnreachable
	}
	if kind != nil {
		err = fmt.Errorf("%w: %w", kind, err)
	}
	return fmt.Errorf("%s %s: %w", op, f.place(name), err)
}

// try calls fn until it succeeds or another try is of no use. n is the number of bytes that fn moves.
func (f *files) try(op, name string, n int64, fn func(ctx context.Context) error) error {
	wait := f.wait
	for tries := 1; ; tries++ {
		ctx, cancel := context.WithTimeout(f.ctx, 30*time.Second+time.Duration(n/slowest)*time.Second)
		err := fn(ctx)
		cancel()
		if err == nil || tries == maxTries || lasting(err) || errors.Is(err, ErrLeaseLost) || f.ctx.Err() != nil {
			return f.explain(op, name, err)
		}
		t := time.NewTimer(wait/2 + rand.N(wait/2+1)) // not all at once, after a service comes back
		select {
		case <-t.C:
		case <-f.ctx.Done():
			t.Stop()
			return f.explain(op, name, err)
		}
		wait = min(2*wait, 8*time.Second)
	}
}

// get returns at most limit bytes of an object from its start.
func (f *files) get(name string, limit int64) (b []byte, etag string, err error) {
	err = f.try("read", name, limit, func(ctx context.Context) error {
		body, info, _, err := f.core.GetObject(ctx, f.bucket, f.key(name), minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer body.Close()
		if info.Size > limit {
			b, etag = nil, info.ETag
			return nil
		}
		// What is announced may be wrong: memory is taken for what comes.
		if b, err = io.ReadAll(io.LimitReader(body, limit+1)); err == nil && int64(len(b)) != info.Size {
			err = io.ErrUnexpectedEOF
		}
		etag = info.ETag
		if err != nil {
			return fmt.Errorf("the answer ends early: %w", err)
		}
		return nil
	})
	return b, etag, err
}

// stat returns what the service says of an object.
func (f *files) stat(name string) (info minio.ObjectInfo, err error) {
	err = f.try("look at", name, 0, func(ctx context.Context) (err error) {
		info, err = f.core.StatObject(ctx, f.bucket, f.key(name), minio.StatObjectOptions{})
		return err
	})
	return info, err
}

// condition is what must hold for a PUT.
type condition struct {
	free bool   // there is no such object
	etag string // there is this one
}

// put writes an object whole. Where its answer was lost, or the object is there already, it looks whether that is this
// one. Where the condition does not hold, it returns fs.ErrExist.
func (f *files) put(name string, r io.ReaderAt, size int64, must condition) (etag string, err error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(r, 0, size)); err != nil {
		return "", fmt.Errorf("read what is to be written to %s: %w", f.place(name), err)
	}
	sum := hex.EncodeToString(h.Sum(nil))
	o := minio.PutObjectOptions{UserMetadata: map[string]string{sumKey: sum}, ContentType: "application/octet-stream"}
	if must.free {
		o.SetMatchETagExcept("*")
	} else if must.etag != "" {
		o.SetMatchETag(must.etag)
	}
	err = f.try("write", name, size, func(ctx context.Context) error {
		if err := f.mayWrite(name); err != nil {
			return err
		}
		info, err := f.core.PutObject(ctx, f.bucket, f.key(name), io.NewSectionReader(r, 0, size), size, "", sum, o)
		etag = info.ETag
		return err
	})
	if err == nil || errors.Is(err, ErrLeaseLost) || f.ctx.Err() != nil {
		return etag, err
	}
	if info, serr := f.stat(name); serr == nil && info.Size == size && info.UserMetadata[sumKey] == sum {
		return info.ETag, nil
	}
	return "", err
}

// remove deletes an object; none is no error, as the answer to an earlier try may have been lost.
func (f *files) remove(name string) error {
	err := f.try("delete", name, 0, func(ctx context.Context) error {
		if err := f.mayWrite(name); err != nil {
			return err
		}
		return f.core.RemoveObject(ctx, f.bucket, f.key(name), minio.RemoveObjectOptions{})
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// list returns the objects right below a folder, and the folders.
func (f *files) list(folder string) (out []minio.ObjectInfo, err error) {
	prefix := f.key("")
	if folder != "." {
		prefix = f.key(folder) + "/"
	}
	err = f.try("list", folder, 64<<20, func(ctx context.Context) error {
		out = nil
		for o := range f.core.ListObjectsIter(ctx, f.bucket, minio.ListObjectsOptions{Prefix: prefix}) {
			if o.Err != nil {
				return o.Err
			}
			if o.Key = strings.TrimPrefix(o.Key, prefix); o.Key != "" {
				out = append(out, o)
			}
		}
		return ctx.Err()
	})
	return out, err
}
