"""`ebbtide serve` with all it can in the process that writes: a storm's requests are too few to need one."""

from ebbtide.cli import main
from ebbtide.database import writer_process

writer_process.FEW = writer_process.MUCH = 1

main()
