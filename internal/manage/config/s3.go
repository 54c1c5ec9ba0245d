package config

import (
	"os"
	"path/filepath"
	"strings"

	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/store/cache"
	"mimeo/internal/imaging/store/s3"
)

// S3 says how to get at a store in S3. What is empty comes from the environment, as for AWS's tools.
type S3 struct {
	Endpoint        string    `yaml:"endpoint"` // URL
	Region          string    `yaml:"region"`
	Style           string    `yaml:"style"` // how requests name the bucket: path, host
	CA              string    `yaml:"ca"`    // file
	AccessKey       string    `yaml:"access_key"`
	SecretKey       s3.Secret `yaml:"secret_key"`
	CredentialsFile string    `yaml:"credentials_file"`
	Profile         string    `yaml:"profile"`
	Cache           string    `yaml:"cache"` // room for chunks that nodes asked for, as 50GiB; default none

	CacheBytes int64 `yaml:"-"` // Cache
}

// Copy says where a copy of each revision goes: a second store.
type Copy struct {
	To              string `yaml:"to"`  // dir:PATH or s3://BUCKET/PREFIX?endpoint=URL
	Key             string `yaml:"key"` // file with what opens it, where it is encrypted
	CredentialsFile string `yaml:"credentials_file"`
	Profile         string `yaml:"profile"`
}

// CopyBucket returns where the second store lies, and false where it is a folder, or there is none.
func (c Config) CopyBucket(env func(string) string) (s3.Config, bool, error) {
	if !strings.HasPrefix(c.Copy.To, "s3:") {
		return s3.Config{}, false, nil
	}
	b, err := s3.Parse(c.Copy.To, env)
	if err != nil {
		return b, true, err
	}
	if c.Copy.CredentialsFile != "" {
		b.CredentialsFile = c.Copy.CredentialsFile
	}
	if c.Copy.Profile != "" {
		b.Profile = c.Copy.Profile
	}
	b.State = filepath.Join(c.State, "s3-copy")
	return b, true, nil
}

// checkStore checks where the store is, and how to get at it.
func (c *Config) checkStore() (err error) {
	if _, ok, err := c.Bucket(os.Getenv); err != nil {
		return c.wrong("store", "%v", err)
	} else if p, folder := strings.CutPrefix(c.Store, "dir:"); !ok && (!folder || !filepath.IsAbs(p)) {
		return c.wrong("store", "%q: want dir:/ABSOLUTE/PATH or s3://BUCKET/PREFIX", c.Store)
	} else if !ok && c.S3 != (S3{}) {
		return c.wrong("s3", "is of no use: the store is %s", c.Store)
	}
	for key, file := range map[string]string{"store_key": c.StoreKey, "copy.key": c.Copy.Key} {
		if file != "" && !filepath.IsAbs(file) {
			return c.wrong(key, "%q: want /ABSOLUTE/PATH", file)
		}
	}
	if c.Copy != (Copy{}) {
		_, ok, err := c.CopyBucket(os.Getenv)
		if err != nil {
			return c.wrong("copy.to", "%v", err)
		} else if p, folder := strings.CutPrefix(c.Copy.To, "dir:"); !ok && (!folder || !filepath.IsAbs(p)) {
			return c.wrong("copy.to", "%q: want dir:/ABSOLUTE/PATH or s3://BUCKET/PREFIX", c.Copy.To)
		} else if c.Copy.To == c.Store {
			return c.wrong("copy.to", "%s is the store itself", c.Copy.To)
		}
	}
	if c.S3.CacheBytes, err = node.ParseSize(c.S3.Cache); err != nil {
		return c.wrong("s3.cache", "%v", err)
	}
	if n := c.S3.CacheBytes; n != 0 && n < cache.MinSize {
		return c.wrong("s3.cache", "%s: want at least %d MiB, or nothing", c.S3.Cache, cache.MinSize>>20)
	}
	return nil
}

// Bucket returns where the store lies, and false where it is a folder.
func (c Config) Bucket(env func(string) string) (s3.Config, bool, error) {
	if !strings.HasPrefix(c.Store, "s3:") {
		return s3.Config{}, false, nil
	}
	b, err := s3.Parse(c.Store, env)
	if err != nil {
		return b, true, err
	}
	for to, v := range map[*string]string{&b.Endpoint: c.S3.Endpoint, &b.Region: c.S3.Region, &b.Style: c.S3.Style, &b.CA: c.S3.CA,
		&b.AccessKey: c.S3.AccessKey, &b.CredentialsFile: c.S3.CredentialsFile, &b.Profile: c.S3.Profile} {
		if v != "" {
			*to = v
		}
	}
	b.SecretKey = c.S3.SecretKey
	b.State = filepath.Join(c.State, "s3")
	return b, true, b.Check()
}
