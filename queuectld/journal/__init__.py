"""
The journal: the ordered history of the queue, as bytes on disk.

It knows records only as bytes with a (key, part) name, and imports nothing else of this
program. All integers are little-endian. A directory (mode 0700, one owner) holds:

    FORMAT                      text, "queuectl-state 1 <uuid>": written last when a
                                directory is set up, so its presence says "segments exist"
    seg-0000000000000042.qj     segments, numbered without gaps; only the last is written to
    snap-0000000000000042.qs    the live records as of the start of segment 42
    *.tmp                       unfinished files, removed at the next start
    *.broken                    snapshots that failed their checks, kept for people

Segments and snapshots share one codec: a file header (`header`), then batch frames
(`frames`), then, in a segment, the *runway*: zero-filled blocks for the batches to come.
Syncing into blocks that are already written is the fast path of every file system, and
the runway is the reserve that lets exits be recorded on a full disk.

The promise: a batch whose commit() returned survives power loss, whole and in order
(durability "always"). A batch whose commit() did not return is there whole or not at all.

The rules that make it so:

1. One batch in flight. Batch n+1 is written only after batch n was synced. Therefore, at
   the first frame that does not check, a later authentic frame that was written after a
   sync proves *corruption* (acknowledged bytes are damaged: refuse to start), and its
   absence proves a *torn tail* (nobody was told that the batch exists: ignore it). The
   weaker durability modes mark each frame with whether a sync came before it, so the rule
   stays exact.
2. Checksums are seeded with a secret salt, new for each segment. Commands are bytes from
   strangers; a frame pasted into a command must not look like a later frame.
3. A failed write or sync is final. The kernel marks the pages clean and a second sync
   would succeed without writing them. The process stops, and the next one *copies* the
   tail to a new file instead of trusting the page cache.
4. A file appears under its final name only when its bytes are synced (write .tmp, fsync,
   rename, fsync the directory), and a file is deleted only when its replacement is durable.
5. Recovery syncs the directory before it believes the names in it, never appends to an old
   segment, and begins a new one with the next epoch.
6. A snapshot is written by a separate process that reads what recovery would read. Two
   generations are kept: the newest snapshot, the one before it, and every segment since.

Reading order: frames, header, files, directory, reader, segment, snapshot, recovery,
access, opening, journal, compaction, repair, tool.
"""
