package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// envPrefix begins the names of environment variables that are settings.
const envPrefix = "MIMEOD_"

// EnvFile names the configuration file.
const EnvFile = envPrefix + "CONFIG"

// setters are the settings that one text can give, by their keys in the file.
func (c *Config) setters() map[string]func(string) error {
	m := map[string]func(string) error{
		"interfaces": func(v string) error {
			c.Interfaces = nil
			for _, f := range strings.Split(v, ",") {
				c.Interfaces = append(c.Interfaces, ParseInterface(strings.TrimSpace(f)))
			}
			return nil
		},
		"limits.soft_off": c.Limits.SoftOff.parse,
		"history.keep":    c.History.Keep.parse,
		"hooks.events":    func(v string) error { c.Hooks.Events = strings.Split(v, ","); return nil },
	}
	for key, p := range map[string]*int{"power.parallel": &c.Power.Parallel, "power.stagger": &c.Power.Stagger, "console.keep": &c.Console.Keep, "history.jobs": &c.History.Jobs, "jobs.max_active": &c.Jobs.MaxActive, "jobs.max_captures": &c.Jobs.MaxCaptures, "jobs.max_deploys": &c.Jobs.MaxDeploys} {
		m[key] = func(v string) (err error) {
			if *p, err = strconv.Atoi(v); err != nil {
				return fmt.Errorf("%q is no number", v)
			}
			return nil
		}
	}
	for key, p := range map[string]*string{"state": &c.State, "store": &c.Store, "store_key": &c.StoreKey, "copy.key": &c.Copy.Key, "gc": &c.GC, "repack": &c.Repack, "http": &c.HTTP, "https": &c.HTTPS, "tftp": &c.TFTP, "nfs": &c.NFS, "agent": &c.Agent, "log": &c.Log, "log_level": &c.LogLevel, "console.log": &c.Console.Log, "hooks.folder": &c.Hooks.Folder, "console.size": &c.Console.Size,
		"s3.endpoint": &c.S3.Endpoint, "s3.region": &c.S3.Region, "s3.style": &c.S3.Style, "s3.ca": &c.S3.CA, "s3.access_key": &c.S3.AccessKey, "s3.secret_key": (*string)(&c.S3.SecretKey), "s3.credentials_file": &c.S3.CredentialsFile, "s3.profile": &c.S3.Profile, "s3.cache": &c.S3.Cache, "copy.to": &c.Copy.To, "copy.credentials_file": &c.Copy.CredentialsFile, "copy.profile": &c.Copy.Profile} {
		m[key] = func(v string) error { *p = v; return nil }
	}
	for key, d := range map[string]*Duration{"netboot": &c.Limits.Netboot, "agent_silence": &c.Limits.AgentSilence, "reboot": &c.Limits.Reboot, "power": &c.Limits.Power, "stall": &c.Limits.Stall} {
		m["limits."+key] = d.parse
	}
	return m
}

// Set gives a setting another value than the file does. The key is as in the file; several interfaces have commas
// between them. from says where the value stands, as "--http", for errors.
func (c *Config) Set(key, value, from string) error {
	set, ok := c.setters()[key]
	if !ok {
		return fmt.Errorf("%s: there is no setting %s", from, key)
	}
	if err := set(value); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	if c.source == nil {
		c.source = map[string]string{}
	}
	c.source[key] = from
	return nil
}

// FromEnv takes the settings that the environment has. A variable that begins like ours and is none of them is an
// error: it is a misspelt one.
func (c *Config) FromEnv(environ []string) error {
	keys := map[string]string{}
	for key := range c.setters() {
		keys[envPrefix+strings.ToUpper(strings.ReplaceAll(key, ".", "_"))] = key
	}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, envPrefix) || name == EnvFile || value == "" {
			continue
		}
		key, ok := keys[name]
		if !ok {
			return fmt.Errorf("environment: %s is no setting; there are %s", name, strings.Join(slices.Sorted(maps.Keys(keys)), ", "))
		}
		if err := c.Set(key, value, name); err != nil {
			return err
		}
	}
	return nil
}
