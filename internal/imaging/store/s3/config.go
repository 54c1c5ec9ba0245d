package s3

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Secret is text that is not shown: not when it is printed, logged or encoded.
type Secret string

// String says that there is a secret, and not which.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(hidden)"
}

// GoString is String, for %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText is String, for encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Config says where a store lies and how to get there.
type Config struct {
	Bucket, Prefix string
	Endpoint       string // URL of the service, or host[:port] for HTTPS; empty: that of AWS for the region
	Region         string // empty: us-east-1
	Style          string // how requests name the bucket: "path", "host", or empty for what is usual at the endpoint
	CA             string // file of PEM certificates that are trusted besides the system's

	AccessKey    string // where it is empty, CredentialsFile counts, and where that is empty the environment
	SecretKey    Secret
	SessionToken Secret
	// CredentialsFile is as AWS's tools have it: sections of aws_access_key_id and aws_secret_access_key.
	CredentialsFile string
	Profile         string // section of that file; empty: default

	// State is a folder for packs that are being written, up to some times their length, and for copies of index files.
	State string

	term time.Duration // of the lock; tests have a short one
	wait time.Duration // before the second try of a request; tests have a short one
}

// Parse reads the place of a store, s3://BUCKET/PREFIX, where endpoint, region, style and ca may follow as in a URL
// (s3://images/mimeo?endpoint=https://minio.example:9000). For what is not said, the environment counts that AWS's tools
// use: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION, AWS_DEFAULT_REGION, AWS_CA_BUNDLE,
// AWS_SHARED_CREDENTIALS_FILE and AWS_PROFILE.
func Parse(place string, env func(string) string) (Config, error) {
	var c Config
	u, err := url.Parse(place)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.User != nil || u.Fragment != "" || u.Port() != "" {
		return c, fmt.Errorf("%s: a store in S3 is named s3://BUCKET/PREFIX", redact(place))
	}
	c.Bucket, c.Prefix = u.Host, strings.Trim(u.Path, "/")
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return c, fmt.Errorf("%s: %w", redact(place), err)
	}
	for key, values := range q {
		to := map[string]*string{"endpoint": &c.Endpoint, "region": &c.Region, "style": &c.Style, "ca": &c.CA}[key]
		if to == nil || len(values) != 1 {
			return c, fmt.Errorf("%s: %s is no option, or stands there twice: known are endpoint, region, style and ca", redact(place), key)
		}
		*to = values[0]
	}
	first := func(to *string, names ...string) {
		for _, n := range names {
			if *to == "" {
				*to = env(n)
			}
		}
	}
	first(&c.Endpoint, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
	first(&c.Region, "AWS_REGION", "AWS_DEFAULT_REGION")
	first(&c.CA, "AWS_CA_BUNDLE")
	first(&c.CredentialsFile, "AWS_SHARED_CREDENTIALS_FILE")
	first(&c.Profile, "AWS_PROFILE")
	return c, c.Check()
}

// redact leaves out what may be a password, where somebody has put one into the place.
func redact(place string) string {
	rest, ok := strings.CutPrefix(place, "s3://")
	if i := strings.LastIndexByte(rest, '@'); ok && i >= 0 {
		return "s3://…@" + rest[i+1:]
	}
	return place
}

// Place returns s3://BUCKET/PREFIX.
func (c Config) Place() string { return strings.TrimSuffix("s3://"+c.Bucket+"/"+c.Prefix, "/") }

// Environ returns the place with all that Parse takes, and the variables that make another program open the same store.
// They hold the secret.
func (c Config) Environ() (place string, env []string) {
	q := make(url.Values)
	for k, v := range map[string]string{"endpoint": c.Endpoint, "region": c.Region, "style": c.Style, "ca": c.CA} {
		if v != "" {
			q.Set(k, v)
		}
	}
	u := url.URL{Scheme: "s3", Host: c.Bucket, Path: "/" + c.Prefix, RawQuery: q.Encode()}
	for k, v := range map[string]string{"AWS_ACCESS_KEY_ID": c.AccessKey, "AWS_SECRET_ACCESS_KEY": string(c.SecretKey), "AWS_SESSION_TOKEN": string(c.SessionToken),
		"AWS_SHARED_CREDENTIALS_FILE": c.CredentialsFile, "AWS_PROFILE": c.Profile} {
		if c.AccessKey == "" && k != "AWS_PROFILE" && v == "" {
			v = os.Getenv(k)
		}
		if v != "" && (c.AccessKey == "" || k != "AWS_SHARED_CREDENTIALS_FILE") {
			env = append(env, k+"="+v)
		}
	}
	return u.String(), env
}

// Check looks whether the parts make sense, and asks nobody.
func (c Config) Check() error {
	if n := len(c.Bucket); n < 3 || n > 63 || strings.Trim(c.Bucket, "abcdefghijklmnopqrstuvwxyz0123456789-._") != "" {
		return fmt.Errorf("%q is no name of a bucket: 3 to 63 lower-case letters, digits, dots and hyphens", c.Bucket)
	}
	if c.Prefix != "" && (path.Clean("/"+c.Prefix) != "/"+c.Prefix || len(c.Prefix) > 512 || !utf8.ValidString(c.Prefix) || strings.ContainsFunc(c.Prefix, func(r rune) bool { return r < ' ' || r == 0x7f })) {
		return fmt.Errorf("%q is no prefix: words between single slashes, at most 512 bytes", c.Prefix)
	}
	if c.Style != "" && c.Style != "path" && c.Style != "host" {
		return fmt.Errorf("style %q is neither path nor host", c.Style)
	}
	if (c.AccessKey == "") != (c.SecretKey == "") {
		return errors.New("an access key and a secret key belong together, and one of them is missing")
	}
	_, _, err := c.endpoint()
	return err
}

// endpoint returns host[:port] and whether TLS is spoken.
func (c Config) endpoint() (host string, secure bool, err error) {
	if c.Endpoint == "" {
		return "s3.amazonaws.com", true, nil
	}
	text := c.Endpoint
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", false, errors.New("the endpoint is a URL like https://s3.example.com:9000, without path and user")
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
			return "", false, fmt.Errorf("the endpoint's port %s is none", p)
		}
	}
	return u.Host, u.Scheme == "https", nil
}

// ErrNoCredentials says that there is no key to sign requests with.
var ErrNoCredentials = errors.New("no access key for S3")

func (c Config) credentials() (*credentials.Credentials, error) {
	if c.AccessKey != "" {
		return credentials.NewStaticV4(c.AccessKey, string(c.SecretKey), string(c.SessionToken)), nil
	}
	var cr *credentials.Credentials
	from := "the environment"
	if os.Getenv("AWS_ACCESS_KEY_ID") == "" || c.CredentialsFile != "" {
		file := c.CredentialsFile
		if file == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return nil, fmt.Errorf("%w: neither in the environment nor in a file", ErrNoCredentials)
			}
			file = filepath.Join(home, ".aws", "credentials")
		}
		cr, from = credentials.NewFileAWSCredentials(file, c.Profile), file
	} else {
		cr = credentials.NewEnvAWS()
	}
	v, err := cr.GetWithContext(&credentials.CredContext{})
	if err != nil {
		return nil, fmt.Errorf("%w in %s: %w", ErrNoCredentials, from, err)
	}
	if v.AccessKeyID == "" || v.SecretAccessKey == "" {
		return nil, fmt.Errorf("%w in %s", ErrNoCredentials, from)
	}
	return cr, nil
}

// connect makes a client, without asking the service anything. Every answer's Date goes to heard.
func (c Config) connect(heard func(time.Time)) (*minio.Core, *http.Transport, error) {
	host, secure, err := c.endpoint()
	if err != nil {
		return nil, nil, err
	}
	cr, err := c.credentials()
	if err != nil {
		return nil, nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, nil, fmt.Errorf("certificates to trust: %w", err)
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, nil, fmt.Errorf("certificates to trust: %s holds none", c.CA)
		}
	}
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: time.Minute, IdleConnTimeout: time.Minute,
		MaxIdleConnsPerHost: 16, DisableCompression: true,
	}
	region := c.Region
	if region == "" {
		region = "us-east-1"
	}
	lookup := map[string]minio.BucketLookupType{"": minio.BucketLookupAuto, "path": minio.BucketLookupPath, "host": minio.BucketLookupDNS}[c.Style]
	core, err := minio.NewCore(host, &minio.Options{Creds: cr, Secure: secure, Transport: dated{t, heard}, Region: region, BucketLookup: lookup,
		MaxRetries: 1}) // who asks knows what may be asked again
	if err != nil {
		return nil, nil, err
	}
	core.SetAppInfo("mimeo", "1")
	return core, t, nil
}

// dated tells what time the service has.
type dated struct {
	http.RoundTripper
	heard func(time.Time)
}

func (d dated) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := d.RoundTripper.RoundTrip(r)
	if err == nil {
		if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			d.heard(t)
		}
	}
	return resp, err
}
