# What made tests/delta/python: deltalake 1.6.6 (PyPI), pyarrow 26.0.1.
import datetime, decimal, shutil, sys
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
where = sys.argv[1]
shutil.rmtree(where, ignore_errors=True)
def rows(ids, day):
    n = len(ids)
    at = datetime.datetime(2026, 11, 1, 12, 30, tzinfo=datetime.timezone.utc)
    return pa.table({
        "id": pa.array(ids, pa.int64()),
        "body": pa.array([f"text number {i}" if i % 3 else None for i in ids]),
        "score": pa.array([i / 8 for i in ids], pa.float64()),
        "price": pa.array([decimal.Decimal(i) / 4 for i in ids], pa.decimal128(9, 2)),
        "at": pa.array([at] * n, pa.timestamp("us", "UTC")),
        "tags": pa.array([["a", str(i)] for i in ids], pa.list_(pa.string())),
        "day": pa.array([day] * n),
    })
write_deltalake(where, rows([1, 2, 3, 4], "2026-11-01"), partition_by=["day"])
write_deltalake(where, rows([5, 6], "it's 50% done"), mode="append")
write_deltalake(where, rows([7], None), mode="append")
DeltaTable(where).delete("id = 2")
print(DeltaTable(where).to_pyarrow_table().sort_by("id"))
