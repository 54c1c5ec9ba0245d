package api

import "time"

// ImageFile is a file of a captured disk.
type ImageFile struct {
	Path     string    `json:"path"`
	Raw      []byte    `json:"raw,omitempty"` // the path, where it is not UTF-8
	Type     string    `json:"type"`          // file, dir, link, char, block, pipe, socket
	Mode     string    `json:"mode"`          // permissions in octal, as 0644
	UID      uint32    `json:"uid"`
	GID      uint32    `json:"gid"`
	Size     int64     `json:"size"` // bytes
	Modified time.Time `json:"modified"`
	Target   string    `json:"target,omitempty"` // of a symbolic link
}

// ImageFiles is one message of a listing. The last one has Finished.
type ImageFiles struct {
	File      *ImageFile `json:"file,omitempty"`
	Problem   string     `json:"problem,omitempty"` // what could not be read; the listing goes on
	Partition int        `json:"partition,omitempty"`
	Count     int64      `json:"count,omitempty"` // with Finished: files listed
	Bytes     int64      `json:"bytes,omitempty"` // with Finished: their sizes
	Finished  bool       `json:"finished,omitempty"`
	Error     *Error     `json:"error,omitempty"`
}

// ImageChange is a file that differs between two captured disks.
type ImageChange struct {
	Path  string     `json:"path"`
	Kind  string     `json:"kind"`  // added, removed, modified (content), changed (mode, owner)
	Bytes int64      `json:"bytes"` // of content that differ, in blocks of 4 KiB; the size where it was added or removed
	Old   *ImageFile `json:"old,omitempty"`
	New   *ImageFile `json:"new,omitempty"`
}

// ImageDiff is one message of a comparison. The last one has Finished.
type ImageDiff struct {
	Change   *ImageChange     `json:"change,omitempty"`
	Counts   map[string]int64 `json:"counts,omitempty"` // with Finished: changes of each kind
	Bytes    map[string]int64 `json:"bytes,omitempty"`  // with Finished: bytes of each kind
	Finished bool             `json:"finished,omitempty"`
	Error    *Error           `json:"error,omitempty"`
}
