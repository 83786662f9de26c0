"""`python -m ecompile_kubectl`."""

from .main import main

raise SystemExit(main())
