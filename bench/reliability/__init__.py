"""How wsseg withstands faults: kills, full disks, hostile files, broken engines, long runs."""
