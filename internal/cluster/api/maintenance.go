package api

import (
	"encoding/json"
	"time"
)

// The work on the store as a whole. One of these at a time, else "busy"; captures and deploys go on beside them.
//
//	POST   /v1/maintenance/check?read_data=1  → text/event-stream of StoreProgress; the last has Finished, and a StoreCheck
//	GET    /v1/maintenance/usage?image=NAME   → StoreUsage
//	GET    /v1/maintenance/garbage?grace_ms=N → text/event-stream of StoreProgress, with a StoreGC: what DELETE would do
//	DELETE /v1/maintenance/garbage?grace_ms=N → likewise, done
//	GET    /v1/maintenance/repair             → text/event-stream of StoreProgress, with a StoreRepair: what PUT would do
//	PUT    /v1/maintenance/repair             → likewise, done
//	GET    /v1/maintenance/repack?level=N     → text/event-stream of StoreProgress, with a StoreRepack: what POST would do
//	POST   /v1/maintenance/repack?level=N     → likewise, done
//	GET    /v1/maintenance/copy               → text/event-stream of StoreProgress, with a StoreCopied: what POST would do
//	POST   /v1/maintenance/copy               → likewise, done

// StoreProgress is how far the work on the store is.
type StoreProgress struct {
	Done     int64           `json:"done"` // bytes of packs
	Total    int64           `json:"total"`
	Finished bool            `json:"finished"`
	Result   json.RawMessage `json:"result,omitempty"` // StoreCheck and its like: whatever was asked for
	Error    *Error          `json:"error,omitempty"`
}

// StoreCheck is what a check of the store has found.
type StoreCheck struct {
	Packs     int                  `json:"packs"`
	Chunks    int64                `json:"chunks"`
	Bytes     int64                `json:"bytes"`    // of all packs
	Read      int64                `json:"read"`     // bytes of packs that were read and checked
	Dead      int64                `json:"dead"`     // bytes of packs that belong to no chunk
	Damaged   int64                `json:"damaged"`  // chunks
	Problems  []string             `json:"problems"` // one line each, the first thousand
	Notes     []string             `json:"notes"`    // what costs nothing but time
	Revisions []StoreCheckRevision `json:"revisions"`
}

// StoreCheckRevision says whether a revision is whole.
type StoreCheckRevision struct {
	Image     string      `json:"image"`
	Rev       int         `json:"rev"`
	ID        string      `json:"id"`
	Created   time.Time   `json:"created"`
	Published time.Time   `json:"published,omitzero"`
	Used      int64       `json:"used"`
	DiskSize  int64       `json:"disk_size"`
	Missing   int64       `json:"missing"`          // pieces of the disk whose chunk is not there
	Damaged   int64       `json:"damaged"`          // pieces of the disk whose chunk is damaged
	Lost      int64       `json:"lost"`             // bytes of the disk that cannot be read back
	Losses    []StoreLoss `json:"losses,omitempty"` // the first twenty
	Error     string      `json:"error,omitempty"`  // why its manifest or chunk list cannot be read
}

// StoreLoss is a place on a captured disk that cannot be read back.
type StoreLoss struct {
	Off int64  `json:"off"` // bytes from the start of the disk
	Len int64  `json:"len"`
	ID  string `json:"id"` // of the chunk
	Why string `json:"why"`
}

// OK tells whether the revision can be deployed.
func (r StoreCheckRevision) OK() bool { return r.Missing == 0 && r.Damaged == 0 && r.Error == "" }

// Hurt returns the revisions that are not whole.
func (c *StoreCheck) Hurt() (hurt []StoreCheckRevision) {
	for _, r := range c.Revisions {
		if !r.OK() {
			hurt = append(hurt, r)
		}
	}
	return hurt
}

// OK tells whether nothing is wrong.
func (c *StoreCheck) OK() bool { return len(c.Problems) == 0 && len(c.Hurt()) == 0 }

// StoreUsage says what takes how much room in the store. Stored, unique and shared bytes are those of packs: compressed,
// each chunk counted once.
type StoreUsage struct {
	Packs     int               `json:"packs"`
	PackBytes int64             `json:"pack_bytes"`
	Chunks    int64             `json:"chunks"`
	Raw       int64             `json:"raw"`       // bytes of all chunks, raw
	Named     int64             `json:"named"`     // bytes of packs that some revision names
	Unnamed   int64             `json:"unnamed"`   // bytes of packs that none names: garbage, and captures under way
	Revisions int               `json:"revisions"` // of all images
	DiskSize  int64             `json:"disk_size"` // of all revisions
	Used      int64             `json:"used"`      // of all revisions
	Images    []StoreUsageImage `json:"images"`
}

// StoreUsageImage is the part of an image.
type StoreUsageImage struct {
	Image     string               `json:"image"`
	DiskSize  int64                `json:"disk_size"`
	Used      int64                `json:"used"`
	Stored    int64                `json:"stored"`
	Unique    int64                `json:"unique"` // removing the image would free them
	Shared    int64                `json:"shared"` // with other images
	Revisions []StoreUsageRevision `json:"revisions"`
}

// StoreUsageRevision is the part of a revision.
type StoreUsageRevision struct {
	Image     string    `json:"image"`
	Rev       int       `json:"rev"`
	ID        string    `json:"id"`
	Created   time.Time `json:"created"`
	Published time.Time `json:"published,omitzero"`
	Used      int64     `json:"used"`
	DiskSize  int64     `json:"disk_size"`
	Chunks    int64     `json:"chunks"`
	Stored    int64     `json:"stored"`
	Unique    int64     `json:"unique"` // removing the revision would free them
	Shared    int64     `json:"shared"` // with other revisions
	Error     string    `json:"error,omitempty"`
}

// StoreGC is what removing garbage has done, or would do. All but counts are bytes of packs.
type StoreGC struct {
	DryRun    bool     `json:"dry_run"`
	Bytes     int64    `json:"bytes"`     // before
	Live      int64    `json:"live"`      // that revisions and running jobs need
	Young     int64    `json:"young"`     // that no revision needs, and a capture that runs or was cut off may
	Garbage   int64    `json:"garbage"`   // that nobody needs, before
	Removed   int      `json:"removed"`   // packs without anything that is needed
	Rewritten int      `json:"rewritten"` // packs of which what is needed was copied
	Copied    int64    `json:"copied"`
	Freed     int64    `json:"freed"`
	Left      int64    `json:"left"`      // garbage in packs that are not worth rewriting
	Manifests int      `json:"manifests"` // that were removed
	Problems  []string `json:"problems"`
}

// StoreRepair is what a repair of the store has found and done, or would do.
type StoreRepair struct {
	DryRun     bool                 `json:"dry_run"`
	Packs      []string             `json:"packs"`       // files that were set aside
	Copied     int64                `json:"copied"`      // bytes of whole chunks that were copied out of these
	Lost       int64                `json:"lost"`        // chunks that are in the store no more
	Found      int64                `json:"found"`       // damaged chunks of which there was a whole copy
	IndexFiles int                  `json:"index_files"` // that were made again
	Records    []string             `json:"records"`     // files of revisions that were set aside
	Problems   []string             `json:"problems"`    // what was found, one line each
	Revisions  []StoreCheckRevision `json:"revisions"`   // those that are not whole now
}

// StoreRepack is what compressing again has done, or would do. All but counts are bytes of packs.
type StoreRepack struct {
	DryRun   bool     `json:"dry_run"` // after and freed are estimates then
	Level    int      `json:"level"`   // of Zstandard
	Packs    int      `json:"packs"`   // that are worth it
	Bytes    int64    `json:"bytes"`   // of these, before
	Chunks   int64    `json:"chunks"`  // that are smaller now; of a dry run: that were tried
	After    int64    `json:"after"`   // of what was made of them
	Freed    int64    `json:"freed"`
	Problems []string `json:"problems"` // packs that stay as they are, and why
}

// StoreCopied is what was copied to the second store, or would be.
type StoreCopied struct {
	To       string   `json:"to"`     // its place
	Copied   []string `json:"copied"` // revisions, NAME@REV
	There    int      `json:"there"`  // revisions that it had
	Chunks   int      `json:"chunks"` // that it lacked
	Stored   int64    `json:"stored"` // their bytes as they are stored
	Problems []string `json:"problems"`
}
