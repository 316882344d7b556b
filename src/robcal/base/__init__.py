"""What every room stands on: checks and their wording, types, arrays, files and storage, progress, tasks, processes.

It imports no other room. `storage` and `user_files` are the only readers and writers of artifacts and of users' arrays.
"""
