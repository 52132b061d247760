"""What killed processes leave behind: found, named, and closed. What lives, or may live elsewhere, is left alone.

``finding``  something found: a sentence, and what closes it
``runs``     runs that are RUNNING, and whose process is dead
``trials``   trials of studies whose worker is dead
``files``    half-written files, work folders, marks of dead processes, spools
``command``  all of them, in the order in which they are closed
"""
