package config

import (
	"path/filepath"
	"strings"

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
