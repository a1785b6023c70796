return find() or false
